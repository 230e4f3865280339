"""The servers, over real sockets."""
