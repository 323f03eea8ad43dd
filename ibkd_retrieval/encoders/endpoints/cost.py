"""What a run will cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.endpoints.address import Address, EndpointTerms
    from ibkd_retrieval.encoders.protocol import Kind
    from ibkd_retrieval.progress import Progress

_BYTES_PER_TOKEN = 4
"""Of English text in the usual vocabularies. Other languages take one to four bytes more or less."""


def tokens_of(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes in UTF-8.

    Example:
        >>> tokens_of("a boat on the river")
        5
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


class Estimate(NamedTuple):
    """The texts that will be sent, about how many tokens they have, and how many more were paid for before."""

    texts: int = 0
    tokens: int = 0
    paid: int = 0

    def plus(self, other: Estimate) -> Estimate:
        """Both together."""
        return Estimate(*(ours + theirs for ours, theirs in zip(self, other, strict=True)))

    def times(self, share: float) -> Estimate:
        """So large a share of it."""
        return Estimate(*(round(share * each) for each in self))


def estimate(
    address: Address, texts: Iterable[str], kind: Kind = "document", prompts: Mapping[str, str] | None = None
) -> Estimate:
    """Estimate what texts of a kind will cost. Nothing is sent.

    What was paid for before is that of the model that was last seen under this address.
    """
    from ibkd_retrieval.encoders.endpoints.identity import Known, folder_of
    from ibkd_retrieval.encoders.endpoints.paid import PaidVectors, key_of

    prompts = prompts or {"query": "", "document": ""}
    folder = folder_of(address, prompts)
    before = [PaidVectors(folder / each[:16], 0) for each in Known(folder).hashes[-1:]]
    count = tokens = paid = 0
    for text in texts:
        sent = address.as_sent(prompts[kind] + text)
        if before and key_of(sent, address.input_types.get(kind, "")) in before[0]:
            paid += 1
        else:
            count += 1
            tokens += tokens_of(sent)
    return Estimate(count, tokens, paid)


def agree(address: Address, estimate: Estimate, terms: EndpointTerms, progress: Progress) -> None:
    """Show what a run will cost, and ask, where it is not agreed to and there is someone to ask.

    Args:
        address: the endpoint.
        estimate: what will be sent.
        terms: the price, and whether the cost is agreed to.
        progress: receives the estimate. If it has a method `confirm`, that asks.

    Raises:
        UserError: the cost is refused, or nobody can agree to it.
    """
    if not estimate.texts:
        return
    price = terms.price
    cost = "" if price is None else f", about ${estimate.tokens * price / 1e6:,.2f} at ${price:g} per million,"
    paid = f"; {estimate.paid:,} more were paid for before" if estimate.paid else ""
    said = f"About {estimate.texts:,} texts with {estimate.tokens:,} tokens{cost} will be sent to {address}{paid}"
    if terms.yes:
        progress.say(said)
        return
    said += "" if price is not None else " (`price` shows the cost)"
    confirm = getattr(progress, "confirm", None)
    answer = None if confirm is None else confirm(f"{said}. Go on?")
    if answer is None:
        raise UserError(f"{said}: give `yes` to agree.")
    if not answer:
        raise UserError("The cost was not agreed to, so nothing was sent: give `yes` to agree.")
