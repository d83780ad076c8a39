"""A campaign of broken servers: whatever they send, nobody gets a wrong text or a raw exception."""
