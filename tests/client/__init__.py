"""The client library, its wire and its drivers."""
