"""The model that is trained, as the paper describes it (Section 2.1, Appendix B)."""
