"""What servers say when they do not answer, each with the reason it is here, and the error it has to be.

`REFUSALS` are statuses, headers and bodies; `None` as a status is an error in the middle of a stream.
`LESSONS` are refusals of one parameter, and what is learned of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agentpool._core.errors import (
    ContentRefusedError,
    ContextTooLongError,
    DriverError,
    DriverUnavailableError,
    MalformedReplyError,
    OverloadedError,
    RateLimitedError,
    RequestRejectedError,
)


class Said(NamedTuple):
    """A refusal, why it is here, and what it stands for."""

    why: str
    status: int | None
    body: Any
    kind: type[DriverError]
    retry_after: float | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


def error(message: str, **more: Any) -> dict[str, Any]:
    """Return the usual form of an error's body."""
    return {"error": {"message": message, **more}}


LONG, RATE, BUSY = ContextTooLongError, RateLimitedError, OverloadedError
GONE, WRONG, REFUSED = DriverUnavailableError, RequestRejectedError, ContentRefusedError

REFUSALS: tuple[Said, ...] = (
    # -- MiniMax, with status 200 and in streams (edenai/edenai-apis#360)
    *(
        Said(f"MiniMax: {text}", None, {"base_resp": {"status_code": code, "status_msg": text}}, kind)
        for code, text, kind in (
            (1002, "rate limit exceeded(RPM)", RATE),
            (1004, "login fail: Please carry the API secret key", WRONG),
            (1008, "insufficient balance", WRONG),
            (1027, "output new_sensitive", REFUSED),
        )
    ),
    # -- the model's own words could not be read
    *(
        Said(f"{why}, status {status}", status, body, MalformedReplyError)
        for status in (500, None)
        for why, body in (
            (
                "Ollama (langchain-ai/langchain#34746)",
                {"error": 'error parsing tool call: raw=\'{"a": "rate limit, invalid\', err=unexpected end'},
            ),
            ("llama.cpp", error("Failed to parse tool call arguments as JSON: parse error", code=500)),
        )
    ),
    *(
        Said(
            f"Groq: {code}, status {status} (anomalyco/opencode#1018)",
            status,
            error(
                "Failed. Please adjust your prompt. See 'failed_generation'.",
                code=code,
                failed_generation="<",
            ),
            MalformedReplyError,
        )
        for status in (400, None)
        for code in ("tool_use_failed", "json_validate_failed")
    ),
    # -- too long
    Said(
        "llama.cpp#19774",
        400,
        error(
            "request (9 tokens) exceeds the available context size (8 tokens)",
            type="exceed_context_size_error",
        ),
        LONG,
    ),
    Said("llama.cpp, status 500", 500, error("Context size has been exceeded.", type="server_error"), LONG),
    Said(
        "llama.cpp without context shift", 500, error("context shift is disabled", type="server_error"), LONG
    ),
    Said("llama.cpp in a stream", None, error("Context size has been exceeded.", code=500), LONG),
    Said(
        "vLLM, old form",
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 9) is longer than the maximum model length of 8.",
            "code": 400,
        },
        LONG,
    ),
    Said(
        "vLLM, new form",
        400,
        error("This model's maximum context length is 8 tokens. However, you requested 9 tokens"),
        LONG,
    ),
    Said("OpenAI by its code", 400, error("too long", code="context_length_exceeded"), LONG),
    Said(
        "OpenAI, responses",
        400,
        error("Your input exceeds the context window of this model.", code="context_length_exceeded"),
        LONG,
    ),
    Said(
        "OpenAI, one string",
        400,
        error("Invalid 'input': string too long.", code="string_above_max_length"),
        LONG,
    ),
    Said(
        "Anthropic",
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"},
        },
        LONG,
    ),
    Said(
        "Anthropic, with the answer",
        400,
        error("input length and `max_tokens` exceed context limit: 9 + 2 > 8", type="invalid_request_error"),
        LONG,
    ),
    Said("Anthropic, bytes", 413, error("Request exceeds the maximum size", type="request_too_large"), LONG),
    Said(
        "Gemini",
        400,
        [
            error(
                "The input token count (9) exceeds the maximum number of tokens allowed (8).",
                status="INVALID_ARGUMENT",
            )
        ],
        LONG,
    ),
    Said(
        "xAI: the code is beside the error",
        400,
        {
            "code": "invalid-argument",
            "error": "This model's maximum prompt length is 8 but the request contains 9 tokens.",
        },
        LONG,
    ),
    Said(
        "TGI",
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8. Given: 9",
            "error_type": "validation",
        },
        LONG,
    ),
    Said(
        "TGI, input alone",
        422,
        {
            "error": "Input validation error: `inputs` must have less than 8 tokens. Given: 9",
            "error_type": "validation",
        },
        LONG,
    ),
    Said(
        "LM Studio",
        400,
        {
            "error": "Trying to keep the first 9 tokens when context the overflows. However, the model is loaded with context length of only 8 tokens"
        },
        LONG,
    ),
    Said(
        "Mistral",
        400,
        {
            "object": "error",
            "message": "Prompt contains 9 tokens, too large for model with 8 maximum context length",
            "type": "invalid_request_prompt",
        },
        LONG,
    ),
    Said("Ollama", 400, error("the input length exceeds the context length"), LONG),
    Said(
        "Cohere",
        400,
        {"message": "too many tokens: total number of tokens in the prompt cannot exceed 8"},
        LONG,
    ),
    Said("Groq", 413, error("Request too large for model", type="tokens", code="request_too_large"), LONG),
    Said(
        "DeepSeek",
        400,
        error(
            "This model's maximum context length is 8 tokens. However, you requested 9 tokens",
            type="invalid_request_error",
        ),
        LONG,
    ),
    Said(
        "Bedrock",
        400,
        {"message": "Input is too long for requested model.", "__type": "ValidationException"},
        LONG,
    ),
    Said(
        "nginx in front", 413, "<html><head><title>413 Request Entity Too Large</title></head></html>", LONG
    ),
    # -- rates
    Said(
        "OpenAI",
        429,
        error("Rate limit reached. Please try again in 1.5s.", type="tokens", code="rate_limit_exceeded"),
        RATE,
        1.5,
    ),
    Said(
        "OpenAI, milliseconds in words",
        429,
        error("Rate limit reached for requests. Please try again in 120ms."),
        RATE,
        0.12,
    ),
    Said("OpenAI, minutes in words", 429, error("Rate limit reached. Try again in 6 minutes."), RATE, 360.0),
    Said("limits per minute speak of too many tokens", 429, error("Too many tokens per minute (TPM)."), RATE),
    Said(
        "Gemini's limit per minute speaks of a quota (Roo-Code#3883)",
        429,
        [
            error(
                "You exceeded your current quota. Come back in 26s.",
                status="RESOURCE_EXHAUSTED",
                details=[{"@type": "x"}, {"retryDelay": "26s"}],
            )
        ],
        RATE,
        26.0,
    ),
    Said(
        "Gemini with the hint in a header (python-genai#2065)",
        429,
        error("You exceeded your current quota."),
        RATE,
        26.0,
        {"retry-after": "26"},
    ),
    Said("Gemini, minutes and parts", 429, error("quota", details=[{"retryDelay": "1m30.5s"}]), RATE, 90.5),
    Said("a code as a number with status 200", 200, error("slow down", code=429), RATE),
    Said(
        "OpenRouter in a stream: the code is a number",
        None,
        error("Provider returned error", code=429, metadata={"raw": "rate-limited upstream"}),
        RATE,
    ),
    Said(
        "Anthropic in a stream",
        None,
        error("Number of requests has exceeded your rate limit", type="rate_limit_error"),
        RATE,
    ),
    Said("no words at all", 429, {}, RATE),
    Said("a page", 429, "<html><title>Too many</title></html>", RATE),
    Said("seconds in the body", 429, error("slow down", retry_after=3), RATE, 3.0),
    Said("Bedrock", 400, {"__type": "ThrottlingException", "message": "Rate exceeded: throttled"}, RATE),
    Said("Azure with status 403", 403, error("Rate limit is exceeded.", code="403"), RATE),
    # -- credit, keys
    Said(
        "OpenAI without credit",
        429,
        error(
            "You exceeded your current quota, please check your plan and billing details.",
            type="insufficient_quota",
            code="insufficient_quota",
        ),
        WRONG,
    ),
    Said(
        "Anthropic without credit",
        400,
        error("Your credit balance is too low to access the API.", type="invalid_request_error"),
        WRONG,
    ),
    Said("OpenRouter without credit", 402, error("This request requires more credits", code=402), WRONG),
    Said("DeepSeek without credit", 402, error("Insufficient Balance", type="unknown_error"), WRONG),
    Said(
        "LiteLLM's budget",
        400,
        error("Budget has been exceeded! Current cost: 1, Max budget: 1", type="budget_exceeded"),
        WRONG,
    ),
    Said("a wrong key", 401, error("Incorrect API key provided", code="invalid_api_key"), WRONG),
    Said("a wrong key with status 200", 200, error("No auth credentials found", code=401), WRONG),
    Said("a wrong key in a stream", None, error("invalid x-api-key", type="authentication_error"), WRONG),
    Said("not allowed", 403, error("Your account does not have access to this model"), WRONG),
    Said("no such model", 404, error("model 'x' not found"), WRONG),
    Said("no such path", 404, "404 page not found", WRONG),
    Said(
        "a validator's list", 422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, WRONG
    ),
    # -- content
    Said(
        "Azure's filter",
        400,
        error(
            "The response was filtered",
            code="content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
        REFUSED,
    ),
    Said(
        "OpenAI's policy",
        400,
        error("Invalid prompt: your prompt was flagged", code="invalid_prompt"),
        REFUSED,
    ),
    Said(
        "Alibaba",
        400,
        error("Input data may contain inappropriate content.", code="data_inspection_failed"),
        REFUSED,
    ),
    Said("OpenRouter's moderation", 403, error("Your chosen model requires moderation", code=403), REFUSED),
    Said("legal reasons", 451, error("blocked by our safety policy"), REFUSED),
    # -- busy, gone
    Said("Anthropic is overloaded", 529, error("Overloaded", type="overloaded_error"), BUSY),
    Said("Anthropic is overloaded in a stream", None, error("Overloaded", type="overloaded_error"), BUSY),
    Said("503", 503, error("no"), BUSY),
    Said("503 with a wait", 503, error("no"), BUSY, 4.0, {"retry-after": "4"}),
    Said("llama.cpp loads its model", 503, error("Loading model", type="unavailable_error"), BUSY),
    Said(
        "Ollama's queue",
        503,
        {"error": "server busy, please try again. maximum pending requests exceeded"},
        BUSY,
    ),
    Said("no capacity with status 500", 500, error("The model is at capacity"), BUSY),
    Said("an upstream broke off in a stream", None, error("upstream", code=502), GONE),
    Said("an error without words", 500, {}, GONE),
    Said("a gateway's page", 502, "<html><head><title>502 Bad Gateway</title></head></html>", GONE),
    Said("Cloudflare", 524, "error code: 524", GONE),
    Said("a time limit of the server", 408, error("timeout"), GONE),
    Said("a conflict", 409, error("conflict"), GONE),
    Said("too early", 425, error("early"), GONE),
    Said("CUDA in a stream", None, {"error": "CUDA error"}, GONE),
    Said("errors as a list", 500, {"errors": [{"message": "boom"}]}, GONE),
    Said(
        "one error inside another's text",
        500,
        error('{"error": {"message": "Context size has been exceeded."}}'),
        LONG,
    ),
    Said("a body that is a number", 500, 7, GONE),
    Said("a body that is null", 400, None, WRONG),
    Said("`error: true` and a message", 400, {"error": True, "message": "no"}, WRONG),
    Said("a list of problems that are texts", 400, {"detail": ["a", "b"]}, WRONG),
    Said("a message that is an object", 422, {"message": {"detail": [{"loc": ["x"], "msg": "bad"}]}}, WRONG),
    Said("a redirect with words", 308, "moved", WRONG),
)


class Lesson(NamedTuple):
    """A refusal of a parameter, why it is here, and what is learned."""

    why: str
    body: dict[str, Any]
    status: int
    said: Any
    dropped: str = ""
    renamed: str = ""
    trait: str = ""
    capped: int = 0


SENT: dict[str, Any] = {"model": "m", "messages": [], "max_tokens": 100, "temperature": 0.3, "stop": ["x"]}


def bad(message: str, param: str | None = None) -> dict[str, Any]:
    """Return the usual form of a refused parameter."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": param}}


LESSONS: tuple[Lesson, ...] = (
    Lesson(
        "OpenAI's reasoning models (hermes-agent#13901)",
        SENT,
        400,
        bad(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens",
        ),
        renamed="max_tokens",
    ),
    Lesson(
        "an old server knows only the old name",
        {"max_completion_tokens": 5},
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "max_completion_tokens"],
                    "msg": "Extra inputs are not permitted",
                }
            ]
        },
        renamed="max_completion_tokens",
    ),
    Lesson(
        "temperature by its value (AgentLab#251)",
        SENT,
        400,
        bad(
            "Unsupported value: 'temperature' does not support 0.3 with this model. Only the default (1) value is supported.",
            "temperature",
        ),
        dropped="temperature",
    ),
    Lesson(
        "temperature, Anthropic",
        SENT,
        400,
        bad("`temperature` is deprecated for this model"),
        dropped="temperature",
    ),
    Lesson(
        "temperature, FastAPI",
        SENT,
        422,
        {"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]},
        dropped="temperature",
    ),
    Lesson(
        "stop, OpenAI (smolagents#1671)",
        SENT,
        400,
        bad("Unsupported parameter: 'stop' is not supported with this model.", "stop"),
        dropped="stop",
    ),
    Lesson(
        "stop, xAI (litellm#10080)",
        SENT,
        400,
        {"code": "x", "error": "Argument not supported on this model: stop"},
        dropped="stop",
    ),
    Lesson(
        "stream_options (openai-agents-python#442)",
        {**SENT, "stream_options": {}},
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "unknown_field",
                        "loc": ["stream_options"],
                        "msg": "stream_options is not known here",
                    }
                ]
            },
        },
        dropped="stream_options",
    ),
    Lesson(
        "parallel calls in words",
        {**SENT, "parallel_tool_calls": False},
        400,
        bad("This model does not support parallel tool calls"),
        dropped="parallel_tool_calls",
    ),
    Lesson(
        "a schema in words",
        {**SENT, "response_format": {}},
        400,
        bad("This model does not support structured output (json_schema)"),
        dropped="response_format",
    ),
    Lesson(
        "a schema by its name",
        {**SENT, "response_format": {}},
        400,
        bad("response_format.type 'json_schema' is not supported", "response_format.type"),
        dropped="response_format",
    ),
    Lesson(
        "reasoning effort",
        {**SENT, "reasoning_effort": "low"},
        400,
        bad("Unrecognized request argument supplied: reasoning_effort"),
        dropped="reasoning_effort",
    ),
    Lesson(
        "tool choice",
        {**SENT, "tool_choice": "required"},
        400,
        bad("tool_choice 'required' is not supported by this model", "tool_choice"),
        dropped="tool_choice",
    ),
    Lesson(
        "tool choice beside thinking (AutoGLM-GUI#396)",
        {**SENT, "tool_choice": "required"},
        400,
        bad("tool_choice 'required' is incompatible with thinking enabled"),
        dropped="tool_choice",
    ),
    Lesson(
        "the system role, Gemma (dspy#1627)",
        SENT,
        400,
        bad("System role not supported"),
        trait="system_in_user",
    ),
    Lesson(
        "the system role, o1",
        SENT,
        400,
        bad(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "messages[0].role",
        ),
        trait="system_in_user",
    ),
    Lesson(
        "the system role, Google",
        SENT,
        400,
        bad("Developer instruction is not enabled for models/gemma-3"),
        trait="system_in_user",
    ),
    Lesson(
        "the system role, a template",
        SENT,
        500,
        bad("Only user, assistant and tool roles are supported, got system. not supported"),
        trait="system_in_user",
    ),
    Lesson(
        "ids of calls, Mistral",
        SENT,
        400,
        {"message": "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9."},
        trait="short_ids",
    ),
    Lesson(
        "what is said after a result, Mistral",
        SENT,
        400,
        {"message": "Unexpected role 'user' after role 'tool'"},
        trait="user_joins_tool",
    ),
    Lesson(
        "reasoning in a history",
        SENT,
        400,
        bad("messages.1.reasoning_content: Extra inputs are not permitted: reasoning_content not allowed"),
        trait="plain_history",
    ),
    Lesson(
        "strict",
        SENT,
        400,
        bad("Unknown parameter: 'response_format.json_schema.strict': strict is not supported"),
        trait="no_strict",
    ),
    Lesson(
        "cache points",
        SENT,
        400,
        bad("tools.0.cache_control: Extra inputs are not permitted"),
        trait="no_cache_points",
    ),
    Lesson(
        "too many tokens asked for, Anthropic",
        {**SENT, "max_tokens": 64000},
        400,
        bad("max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens"),
        capped=8192,
    ),
    Lesson(
        "too many tokens asked for, OpenAI",
        {**SENT, "max_tokens": 100_000},
        400,
        bad(
            "max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you provided 100000."
        ),
        capped=16384,
    ),
    Lesson(
        "too many tokens asked for, Groq",
        {**SENT, "max_tokens": 100_000},
        400,
        bad(
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window`"
        ),
        capped=8192,
    ),
    Lesson(
        "too many tokens asked for, DeepSeek",
        {**SENT, "max_tokens": 100_000},
        400,
        bad("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"),
        capped=8192,
    ),
    Lesson(
        "a schema, DeepSeek (llm-exe/llm-exe#662, presenton/presenton#676)",
        {**SENT, "response_format": {}},
        400,
        bad("This response_format type is unavailable now"),
        dropped="response_format",
    ),
    Lesson(
        "a schema, DeepSeek as text (dzhng/deep-research#22)",
        {**SENT, "response_format": {}},
        422,
        "Failed to deserialize the JSON body into the target type: response_format: response_format.type"
        " `json_schema` is unavailable now at line 1 column 12440",
        dropped="response_format",
    ),
    Lesson(
        "a schema, Azure's older versions",
        {**SENT, "response_format": {}},
        400,
        bad(
            "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later"
        ),
        dropped="response_format",
    ),
    Lesson(
        "a schema, LM Studio's older versions",
        {**SENT, "response_format": {}},
        400,
        {"error": "'response_format.type' must be 'json_object' or 'text'"},
        dropped="response_format",
    ),
    Lesson(
        "a schema that a server takes strictly, asked or not",
        {**SENT, "response_format": {}},
        400,
        bad(
            "Invalid schema for response_format 'answer': In context=(), 'additionalProperties' is required to"
            " be supplied and to be false.",
            "response_format",
        ),
        dropped="response_format",
    ),
    Lesson(
        "a schema beside tools, Groq (vercel/ai#16540)",
        SENT,
        400,
        bad("json mode cannot be combined with tool/function calling"),
        trait="no_schema_with_tools",
    ),
    Lesson(
        "a schema beside tools, Groq's other words (agno-agi/agno#1065)",
        SENT,
        400,
        bad("'response_format' json_object cannot be combined with tool/function calling"),
        trait="no_schema_with_tools",
    ),
    Lesson(
        "a schema beside tools, Cerebras",
        SENT,
        400,
        {"message": '"tools" is incompatible with "response_format"', "code": "wrong_api_format"},
        trait="no_schema_with_tools",
    ),
    Lesson(
        "temperature, Kimi (Warma10032/VideoAdGuard#34, NousResearch/hermes-agent#11764)",
        SENT,
        400,
        bad("invalid temperature: only 1 is allowed for this model"),
        dropped="temperature",
    ),
    Lesson(
        "too many tokens asked for, Alibaba (open-webui/open-webui#10507, anomalyco/opencode#16971)",
        {**SENT, "max_tokens": 32_000},
        400,
        bad("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]"),
        capped=8192,
    ),
    Lesson(
        "too many tokens asked for, Bedrock (charmbracelet/crush#946)",
        {**SENT, "max_tokens": 64_000},
        400,
        {"message": "The maximum tokens you requested exceeds the model limit of 32768"},
        capped=32768,
    ),
    Lesson(
        "too many tokens asked for, Volcengine (yiliqi78/TOKENICODE#3)",
        {**SENT, "max_tokens": 64_000},
        400,
        bad(
            "The parameter max_tokens specified in the request is not valid: integer above maximum value,"
            " expected a value <= 32768, but got 64000 instead.",
            "max_tokens",
        ),
        capped=32768,
    ),
    Lesson(
        "the system role, a validator",
        SENT,
        422,
        {
            "detail": [
                {"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user' or 'assistant'"}
            ]
        },
        trait="system_in_user",
    ),
    Lesson(
        "strict, by its place",
        SENT,
        400,
        bad("Unknown parameter: 'tools[0].function.strict'.", "tools[0].function.strict"),
        trait="no_strict",
    ),
    Lesson(
        "efforts of which none is one of ours",
        {**SENT, "reasoning_effort": "low"},
        400,
        bad("`reasoning_effort` must be one of `none` or `default`"),
        dropped="reasoning_effort",
    ),
    Lesson(
        "an effort that is known, so that something else is wrong",
        {**SENT, "reasoning_effort": "low"},
        400,
        bad("`reasoning_effort` should be one of 'low' or 'high'"),
    ),
    Lesson("nothing: another thing is wrong", SENT, 400, bad("model not found")),
    Lesson(
        "nothing: a value out of its range is the user's",
        SENT,
        400,
        bad("temperature must be between 0 and 2", "temperature"),
    ),
    Lesson(
        "nothing: a name within another word", {**SENT, "stop": ["x"]}, 400, bad("nonstop is not supported")
    ),
    Lesson(
        "nothing: what was not sent",
        {"model": "m"},
        400,
        bad("Unsupported parameter: 'temperature'", "temperature"),
    ),
    Lesson(
        "nothing: tools are never left out",
        {**SENT, "tools": []},
        400,
        bad("this model does not support tools", "tools"),
    ),
    Lesson("nothing: a wrong key", SENT, 401, bad("temperature is not supported")),
    Lesson("nothing: the server broke", SENT, 500, bad("temperature sensor exploded")),
)
