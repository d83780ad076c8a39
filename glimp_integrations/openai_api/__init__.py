"""Requests, replies and errors in the shapes of OpenAI's API, whatever carries them.

``glimp serve`` reads and sends them over HTTP, ``glimp batch`` in files.
"""
