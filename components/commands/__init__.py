"""Programs that components run through the command provider; each can be run by hand with the same environment."""
