"""The studies: what is trained, on which protocol, by which runner."""
