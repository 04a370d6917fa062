"""Everything srr_guard knows about the insides of LangChain's runnables."""
