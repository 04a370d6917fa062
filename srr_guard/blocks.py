"""The parts of messages by kind: LangChain's standard blocks and those of the big providers."""

from __future__ import annotations

TEXTS = frozenset(
    {
        "text",
        "output_text",
        "input_text",
        "refusal",
        "citation",
        "reference",
        "tool_reference",
        "non_standard_annotation",
        "guard_content",
        "citations_content",
        "json",
        "compaction",
    }
)
"""Read as text, with whatever else they hold (citations, titles)."""

REASONING = frozenset({"thinking", "reasoning", "reasoning_content", "redacted_thinking"})
"""Read as reasoning. The encrypted part, which only the provider can read, is left out."""

REASONING_FIELDS = frozenset(
    {"reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks"}
)
"""Fields beside the content that hold reasoning: DeepSeek, OpenRouter, Ollama, LiteLLM."""

METADATA_TEXTS = (
    # Google
    "grounding_metadata",
    "groundingMetadata",
    "citation_metadata",
    "citationMetadata",
    "url_context_metadata",
    # Cohere, Perplexity, xAI
    "citations",
    "documents",
    "search_queries",
    "search_results",
    # Bedrock: what its guardrail took away
    "trace",
)
"""Fields of a message's metadata that hold texts, not only what the call was like."""

LOCAL_CALLS = frozenset(
    {
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "tool_use",
        "function_call",
        "custom_tool_call",
        "input_json_delta",
    }
)
"""Calls of the app's own tools, which mostly repeat what `AIMessage.tool_calls` holds."""

SERVER_TOOLS = frozenset(
    {
        # LangChain
        "server_tool_call",
        "server_tool_call_chunk",
        "server_tool_result",
        # Anthropic
        "server_tool_use",
        "mcp_tool_use",
        "mcp_tool_result",
        "tool_result",
        "search_result",
        "web_search_result",
        "web_search_tool_result",
        "web_search_tool_result_error",
        "web_fetch_result",
        "web_fetch_tool_result",
        "code_execution_result",
        "code_execution_tool_result",
        "bash_code_execution_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        # OpenAI
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "computer_call",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
        "program",
        "program_output",
        "function_call_output",
        "custom_tool_call_output",
        # Google
        "executable_code",
    }
)
"""Calls of the provider's tools and their results: read as text, fields side by side."""

MEDIA = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "output_image",
        "image_generation_call",
        "computer_screenshot",
        "computer_call_output",
        "audio",
        "input_audio",
        "output_audio",
        "video",
        "video_url",
        "media",
        "file",
        "input_file",
        "file_data",
        "document",
        "text-plain",
        "container_upload",
    }
)
"""Unreadable, unless they hold text in place of data (a transcript, a plain document)."""

DOCUMENTS = frozenset({"file", "document", "text-plain", "input_file"})
"""Media that may hold their text in a field of this name."""

TEXT_KEYS = ("text", "refusal", "transcript", "thinking", "reasoning", "content")
"""Where a block that is text keeps it."""

DATA_KEYS = frozenset(
    {
        "data",
        "base64",
        "b64_json",
        "bytes",
        "url",
        "image",
        "image_url",
        "video_url",
        "input_audio",
        "file",
        "file_data",
        "file_uri",
        "file_url",
        "result",
        "source",
        "output",
    }
)
"""Where a block of media keeps its data."""

SILENT = frozenset(
    {
        "type",
        "id",
        "call_id",
        "tool_call_id",
        "tool_use_id",
        "item_id",
        "response_id",
        "container_id",
        "file_id",
        "index",
        "output_index",
        "content_index",
        "start_index",
        "end_index",
        "role",
        "status",
        "phase",
        "object",
        "fingerprint",
        "signature",
        "thought_signature",
        "function_call_signature",
        "encrypted_content",
        "encrypted_index",
        "encrypted_stdout",
        "redacted_content",
        "redactedContent",
        "mime_type",
        "media_type",
        "format",
        "source_type",
        "detail",
        "cache_control",
        "chunk_position",
        "expires_at",
        "created_at",
        "logprobs",
        "rendered_content",
        "renderedContent",
    }
)
"""Names of fields that hold no text of their own: ids, positions, signatures, what is encrypted,
Google's page around its search queries."""
