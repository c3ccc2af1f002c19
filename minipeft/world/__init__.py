"""The town and how it speaks: words, facts, sentences, texts that people in it write."""
