"""`LocalChatModel`: a causal LM on this machine as a chat model."""
