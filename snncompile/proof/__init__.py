"""The proof chain: every stage of a program compared on every spike, and the cause of the first difference."""
