"""The server of W8, in a process of its own: answers chat completions at once, and keeps connections.

    python -m bench.w8_server           prints its port; ends with its standard input

Standard library only. `stream: true` in a request gets 50 pieces, everything else a whole answer. Who
offers tools is asked to run one in each of the first nine turns of a conversation.
"""

from __future__ import annotations

import json
import socket
import sys
import threading

PIECES = 50
TURNS = 10


def _data(**more: object) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
    return _data(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def _call(turn: int) -> dict[str, object]:
    function = {"name": "add", "arguments": json.dumps({"a": turn, "b": 2})}
    return {"id": f"call_{turn}", "type": "function", "function": function}


def _whole(*calls: dict[str, object]) -> bytes:
    message = {"role": "assistant", "content": "an answer of some words", "tool_calls": calls or None}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _stream(*calls: dict[str, object]) -> list[bytes]:
    usage = {"prompt_tokens": 10, "completion_tokens": PIECES, "total_tokens": 10 + PIECES}
    pieces = [_chunk({"content": f"word{number} "}) for number in range(PIECES)]
    if calls:
        pieces.append(_chunk({"tool_calls": [{"index": 0, **calls[0]}]}))
    pieces += [
        _chunk({}, "tool_calls" if calls else "stop"),
        _data(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


WHOLE, STREAM = _whole(), _stream()
CALLING = [(_whole(_call(turn)), _stream(_call(turn))) for turn in range(TURNS - 1)]


def serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            fields = head.lower().split(b"\r\n")
            length = next((int(field[15:]) for field in fields if field.startswith(b"content-length:")), 0)
            while len(body) < length:
                body += connection.recv(65536)
            asked, data = body[:length], body[length:]
            asked = asked.replace(b" ", b"")
            turn = asked.count(b'"role":"tool"')
            calls = b'"tools":' in asked and turn < len(CALLING)
            whole, stream = CALLING[turn] if calls else (WHOLE, STREAM)
            for piece in stream if b'"stream":true' in asked else [whole]:
                connection.sendall(piece)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    threading.stack_size(256 * 1024)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
