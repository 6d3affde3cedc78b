"""The placed program and the sealed directory it is saved as."""
