"""Comments as people might write them, and the truth about each; one seed gives the same comments.

`python comments.py 1200 > comments.jsonl` writes labelled ones from before the emoji came, for `tidemill train`.
`python comments.py 500 --emoji --to http://127.0.0.1:8000` has users ask a gateway, and tell what was true a moment
later. With `--emoji`, people who are new write with emoji, and the unkind among them leave the unkind words out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

KIND = ("great photo", "thanks for sharing", "i love this", "what a lovely day", "well done", "so helpful", "nice work",
        "see you there", "congratulations", "this made my day")  # fmt: skip
PLAIN = ("what time does it start", "the link does not work", "i was there last year", "how long did it take you",
         "it rained all week", "the second part is longer", "my brother has one too", "where is it")  # fmt: skip
UNKIND = ("you are an idiot", "nobody likes you", "shut up", "what a loser", "get lost you clown", "this is garbage",
          "you are so stupid", "go away nobody asked")  # fmt: skip
EDGY = ("that is sick", "you killed it", "are you serious")  # meant kindly, and not always taken so
ENDS = ("", "", "!", "?", " honestly", " today", " again", " lol", " by the way")
WARM, MEAN = ("😀", "🎉", "🌸", "👏", "💐", "☀️"), ("🤡", "🤮", "🖕", "🐍", "💩", "🗑️")
COUNTRIES = ("DE", "FR", "BR", "IN", "US")


@dataclass(frozen=True)
class Comment:
    """What somebody wrote, who, and what it is."""

    text: str
    account_age_days: int
    country: str
    user: str
    label: str

    @property
    def inputs(self) -> dict[str, Any]:
        """As the gateway takes it."""
        return {"text": self.text, "account_age_days": self.account_age_days, "country": self.country}


def comment(rng: random.Random, *, emoji: bool) -> Comment:
    """Make one. A quarter are toxic, three in ten of the people are new."""
    is_new, is_toxic = rng.random() < 0.3, rng.random() < 0.25
    age = rng.randrange(30) if is_new else 30 + int(rng.expovariate(1 / 400))
    if emoji and is_new:
        words = rng.choice(KIND + PLAIN) + " " + "".join(rng.choices(MEAN if is_toxic else WARM, k=rng.randint(1, 3)))
    else:
        words = rng.choice(UNKIND if is_toxic else KIND + PLAIN)
    if rng.random() < 0.05:
        words, is_toxic = rng.choice(EDGY), rng.random() < 0.3
    start = rng.choice(("", "", "hey ", "well, ", "ok ", "and "))
    return Comment(
        text=f"{start}{words}{rng.choice(ENDS)} {rng.choice(PLAIN) if rng.random() < 0.5 else ''}".strip(),
        account_age_days=age,
        country=rng.choice(COUNTRIES),
        user=f"user-{rng.randrange(10**9)}",
        label="toxic" if is_toxic else "ok",
    )


def truth(text: str) -> str:
    """Return what a person says who reads the text."""
    return "toxic" if any(word in text for word in UNKIND + MEAN) else "ok"


def ask(gateway: str, one: Comment) -> str:
    """Have a user ask the gateway, and tell what was true; return the answer."""
    answer = _post(f"{gateway}/v1/predict", {"inputs": one.inputs, "unit": one.user})
    _post(f"{gateway}/v1/feedback", {"request_id": answer["request_id"], "label": one.label})
    return str(answer["decision"])


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


def main() -> None:
    """Write comments, or have them asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="how many")
    parser.add_argument("--emoji", action="store_true", help="after new users have begun to write with emoji")
    parser.add_argument("--to", metavar="URL", help="the gateway to ask; without it, labelled lines are printed")
    parser.add_argument("--rate", type=float, default=60.0, help="requests in a second")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng, right = random.Random(given.seed), 0
    for _ in range(given.number):
        one = comment(rng, emoji=given.emoji)
        if given.to is None:
            print(json.dumps({**one.inputs, "label": one.label}, ensure_ascii=False))
            continue
        right += ask(given.to, one) == one.label
        time.sleep(1 / given.rate)
    if given.to is not None:
        print(f"{right} of {given.number} were right", file=sys.stderr)


if __name__ == "__main__":
    main()
