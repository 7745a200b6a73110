"""What a model is told of a tool's docstring, however that is written."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from agentpool.tools import tool
from agentpool.tools._docstring import read_docstring

BOTH = {"sort": "Which sort.", "cups": "How many."}


def read(doc: str, *names: str) -> tuple[str, dict[str, str]]:
    said = read_docstring(inspect.cleandoc(doc), names or ("sort", "cups"), ("ctx",))
    return said.text, dict(said.arguments)


STYLES = {
    "no blank line above": """Order tea.
        Args:
            sort: Which sort.
            cups: How many.
        """,
    "blank lines everywhere": """Order tea.


        Args:


            sort: Which sort.

            cups: How many.

        """,
    "types in brackets": """Order tea.

        Args:
            sort (dict[str: int], optional): Which sort.
            cups(int | None): How many.
        """,
    "not indented": """Order tea.

        Args:
        sort: Which sort.
        cups: How many.
        """,
    "Markdown": """Order tea.

        **Arguments:**
        - **sort** (`str`): Which sort.
        * `cups` - How many.
        """,
    "Markdown headings": """Order tea.

        ## Parameters
        - sort: Which sort.
        - cups: How many.
        """,
    "a colon of Chinese": """Order tea.

        Args:
            sort\uff1aWhich sort.
            cups\uff1a How many.
        """,
    "fields below a header": """Order tea.

        Args:
            :param sort: Which sort.
            :param cups: How many.
        """,
    "names alone": """Order tea.

        Parameters:
            sort (str)
                Which sort.
            cups
                How many.
        """,
    "the context too": """Order tea.

        Args:
            ctx: The context.
            sort: Which sort.
            cups: How many.
        """,
    "two sections": """Order tea.

        Args:
            sort: Which sort.

        Keyword Args:
            cups: How many.
        """,
    "NumPy": """Order tea.

        Parameters
        ----------
        sort : str
            Which sort.
        cups: int, optional
            How many.
        """,
    "NumPy, without indentation": """Order tea.

        Parameters
        ----------
        sort : str
        Which sort.
        cups : int
        How many.
        """,
    "Google with a line of dashes": """Order tea.

        Args:
        -----
            sort (str): Which sort.
            cups: How many.
        """,
    "a mixture of NumPy and Google": """Order tea.

        Parameters
        ----------
        sort: Which sort.
        cups: How many.
        """,
    "Sphinx": """Order tea.

        :param str sort: Which sort.
        :type sort: str
        :param cups: How many.
        :rtype: str
        :raises ValueError: never
        """,
    "Sphinx, no blank line": """Order tea.
        :param sort: Which sort.

        :arg cups: How many.
        """,
    "Epydoc": """Order tea.

        @param sort: Which sort.
        @type sort: str
        @param cups: How many.
        @raise ValueError: never
        """,
    "as in Java": """Order tea.

        @param {string} sort - Which sort.
        @param cups How many.
        """,
    "errors": """Order tea.

        Raises:
            ValueError: never

        Args:
            sort: Which sort.
            cups: How many.
        """,
    "errors in NumPy's style": """Order tea.

        Parameters
        ----------
        sort : str
            Which sort.
        cups : str
            How many.

        Raises
        ------
        ValueError
            never
        """,
    "tabs and carriage returns": "Order tea.\r\n\r\nArgs:\r\n\tsort: Which sort.\r\n\tcups: How many.\r\n",
}


@pytest.mark.parametrize("style", STYLES)
def test_arguments_are_read_in_each_style(style: str) -> None:
    assert read(STYLES[style]) == ("Order tea.", BOTH)


def test_a_docstring_may_begin_with_its_arguments() -> None:
    doc = """Args:
            sort: Which sort.
            cups: How many.
        """
    assert read(doc) == ("", BOTH)


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        (
            """Order tea.

            Args:
                sort (str): One of:
                    - "green": mild
                    - cups: no argument here
                continued: here
                cups: 1

                    2
            """,
            {
                "sort": 'One of:\n    - "green": mild\n- cups: no argument here\ncontinued: here',
                "cups": "1\n\n2",
            },
        ),
        (
            """Order tea.

            Parameters
            ----------
            sort, cups : {'a', 'b'}, default 'a'
                Both: one

                or none.
            """,
            dict.fromkeys(("sort", "cups"), "Both: one\n\nor none. ({'a', 'b'})"),
        ),
        (
            """Order tea.

            :param sort: Which: sort
            and :more: of it
              - a
            :type sort: one of {1, 2}
            :param cups: many
            """,
            {"sort": "Which: sort\nand :more: of it\n- a (one of {1, 2})", "cups": "many"},
        ),
        (
            """Order tea.

            Args:
                sort (str, one of "a" or "b", defaults to "b"): Which.
                cups (int, optional): Many.
            """,
            {"sort": 'Which. (str, one of "a" or "b")', "cups": "Many."},
        ),
        (
            """Order tea.

            Args:
            sort: Which
            of them.
            cups: Many.
            """,
            {"sort": "Which\nof them.", "cups": "Many."},
        ),
    ],
    ids=["Google", "NumPy", "Sphinx", "types that say more", "not indented"],
)
def test_nothing_of_an_argument_is_lost(doc: str, said: dict[str, str]) -> None:
    assert read(doc) == ("Order tea.", said)


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ("", ""),
        ("Ratio 3:1. :smile: Keys: a: b", "Ratio 3:1. :smile: Keys: a: b"),
        (":warning: costs money.\n:type: fish\n@home: no", ":warning: costs money.\n:type: fish\n@home: no"),
        ("Args: none", "Args: none"),
        ("Order.\n\nArgs:\n    None", "Order.\n\nArgs:\n    None"),
        ("Order.\n\nArgs:", "Order.\n\nArgs:"),
        ("Order.\n\n:param other: unknown", "Order.\n\n:param other: unknown"),
        ("Order.\n\nParameters\n----------\nNone", "Order.\n\nParameters:\nNone"),
        ("Order.\n\nNotes\n-----\nOnce.\n\nUsage\n-----\nx", "Order.\n\nNotes:\nOnce.\n\nUsage\n-----\nx"),
        ("Order.\n\nReturns:\n    tea", "Order.\n\nReturns:\n    tea"),
        ("Order.\n\n:return: tea", "Order.\n\nReturns: tea"),
        ("Order.\n\nArgs:\n    sort (unclosed: x", "Order.\n\nArgs:\n    sort (unclosed: x"),
        ("Order.\n\nExample:\n    sort: 1", "Order.\n\nExample:\n    sort: 1"),
        ("Order.\n\nExample:\n    Args:\n        sort: 1", "Order.\n\nExample:\n    Args:\n        sort: 1"),
        ("As in::\n\n    :param sort: x\n\nEnd.", "As in::\n\n    :param sort: x\n\nEnd."),
        ("Order.\n\nRaises: nothing", "Order.\n\nRaises: nothing"),
    ],
)
def test_what_describes_no_argument_stays_as_it_is(doc: str, text: str) -> None:
    assert read(doc) == (text, {})


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ("Order.\nArgs:\n    sort: x\n    cups: y\nOnce a minute.", "Order.\n\nOnce a minute."),
        ("Order.\n\nArgs:\nsort: x\ncups: y\n\nOnce a minute.", "Order.\n\nOnce a minute."),
        ("Order.\n\nArgs:\nsort: x\ncups: y\nNote: once", "Order.\n\nNote: once"),
        ("Order.\n\nArgs:\n    All of them:\n    sort: x\n    cups: y", "Order.\n\nAll of them:"),
        (
            "Order.\n\nParameters\n----------\nsort : str\n    x\ncups : str\n    y\n\nOnce.",
            "Order.\n\nOnce.",
        ),
        (":param sort: x\n:param cups: y\n\nOnce.", "Once."),
        (":param sort: x\n:param cups: y\nNote: once", "Note: once"),
        (
            "Note:\n    Once.\n\nArgs:\n    sort: x\n    cups: y\n\nExample:\n    1",
            "Note:\n    Once.\n\nExample:\n    1",
        ),
    ],
)
def test_what_stands_around_the_arguments_stays(doc: str, text: str) -> None:
    assert read(doc) == (text, {"sort": "x", "cups": "y"})


def test_an_argument_with_a_line_below_it() -> None:
    assert read("Order.\n\nParameters\n----------\nsort : list of str\ncups : int") == (
        "Order.",
        {"sort": "list of str"},
    )


def test_a_tool_is_told_with_its_arguments() -> None:
    @tool
    def order(sort: str, *, cups: int = 1) -> str:
        """Order tea.
        Args:
            sort: Which sort.
            cups: How many.
        """
        return f"{cups} {sort}"

    definition = order.definition
    properties: dict[str, Any] = definition.input_schema["properties"]
    assert definition.description == "Order tea."
    assert {name: entry["description"] for name, entry in properties.items()} == BOTH


def test_a_callable_object_is_described_by_its_call_or_its_class() -> None:
    class Order:
        """What orders tea."""

        def __call__(self, sort: str) -> str:
            return sort

    class Told(Order):
        def __call__(self, sort: str) -> str:
            """Order tea.

            Args:
                self: not shown
                sort: Which sort.
            """
            return sort

    assert tool(Order(), name="order").definition.description == "What orders tea."
    told = tool(Told(), name="order").definition
    assert told.description == "Order tea."
    assert told.input_schema["properties"]["sort"]["description"] == "Which sort."


def test_the_parser_is_imported_only_where_it_is_needed() -> None:
    code = (
        "import sys\n"
        "from agentpool.tools import tool\n"
        "def google(a: str) -> None:\n"
        "    '''Do.\\n\\n    Args:\\n        a: it\\n    '''\n"
        "def sphinx(a: str) -> None:\n"
        "    ''':param a: it'''\n"
        "assert tool(google).definition.input_schema['properties']['a']['description'] == 'it'\n"
        "assert 'docstring_parser' not in sys.modules\n"
        "assert tool(sphinx).definition.input_schema['properties']['a']['description'] == 'it'\n"
        "assert 'docstring_parser' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
