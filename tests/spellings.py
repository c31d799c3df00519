"""Plain scalars of YAML, and what kubectl takes them for (a test asks it)."""

from typing import Any

SPELLINGS: dict[str, Any] = {
    # Numbers, however they are written.
    **dict.fromkeys(("5e-6", "5.0e-6", "0.000005", "5E-6", "+5e-6", "5.e-6", ".5e-5", "5e-06"), 5e-6),
    **dict.fromkeys((".5", "0.5", "+.5", "00.5", "5e-1"), 0.5),
    **dict.fromkeys(("1", "1.", "1.0", "+1", "1e0", "01", "0x1", "0b1", "0o1", "1_", "1__.0"), 1),
    **dict.fromkeys(("1_000", "1e3", "1E+3", "0x3e8", "01750", "1_000.0"), 1000),
    "08": 8,
    "010": 8,
    "-0": 0,
    "-0.0": 0,
    "1e-400": 0,
    # The last integer of 64 bits, and one more.
    "9223372036854775807": 2**63 - 1,
    "9223372036854775808": 2.0**63,
    # What looks like a number, and is none.
    **{
        text: text
        for text in ("1e400", "5e", "e5", "5e-", "0x", "._5", ".", "+", "1:30", "1.2.3", "--1", "1e3.0")
    },
    **{
        text: text
        for text in ("2024-01-01", "2024-01-01T00:00:00Z", "=", "infinity", "nan", "inf", "None", "yES")
    },
    **dict.fromkeys(("y", "Yes", "on", "True"), True),
    **dict.fromkeys(("n", "NO", "Off", "false"), False),
    **dict.fromkeys(("~", "null", "Null"), None),
}
NOT_FINITE = {
    ".nan",
    ".NaN",
    ".NAN",
    *(f"{sign}.{word}" for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")),
}
