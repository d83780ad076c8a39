"""What can be typed after ``glimp``: a file per command, with its arguments, options and help.

Nothing here imports what a command needs to run; that waits in the file of the same name in
:mod:`glimp_integrations.cli` until the command is called.
"""
