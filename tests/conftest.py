"""What all tests share."""

from hypothesis import settings

# A pause of a busy machine is no failure; pytest's own timeout catches what hangs.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
