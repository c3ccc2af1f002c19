"""All methods in one view: experiments."""
