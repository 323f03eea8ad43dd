"""The finished student: its folder, its card, its vector space."""
