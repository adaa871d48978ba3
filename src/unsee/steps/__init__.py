"""One module per step of an audit: the only place where the other parts are put together."""
