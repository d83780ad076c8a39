"""Many conversations at once, for a long time, over one pair of backends and faulty servers."""
