"""What runs in C++ of our own, and why: the one door to it."""
