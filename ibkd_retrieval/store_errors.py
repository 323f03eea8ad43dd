"""What object stores and their libraries say, as sentences that say what to do."""

from __future__ import annotations

import re
import sys

from ibkd_retrieval.errors import UserError, WorkFailed


def errors_of_libraries() -> tuple[type[Exception], ...]:
    """What pyarrow raises, and obstore and boto3 if they are imported."""
    bases = (("obstore.exceptions", "BaseError"), ("botocore.exceptions", "BotoCoreError"))
    own = [getattr(sys.modules[module], name) for module, name in bases if module in sys.modules]
    return (OSError, ValueError, *own)


_NOISE = re.compile(r"^When .*?: (?=AWS Error)|Error performing \w+ \S+ in .*? - ")
_REFUSED = re.compile(
    r"ACCESS_DENIED|ACCESS KEY|INVALID_ACCESS|SIGNATURE|CREDENTIAL|FORBIDDEN|UNAUTH|\b40[13]\b|DENIED|CONFIG PROFILE"
)
_ABSENT = re.compile(r"NO_SUCH_BUCKET|BUCKET DOES NOT EXIST|BUCKET .* NOT FOUND")
_SILENT = re.compile(
    r"NETWORK_CONNECTION|CURL|COULD NOT (CONNECT|RESOLVE)|UNAVAILABLE|TIMEOUT|TIMED OUT|SENDING REQUEST"
)


def no_bucket(address: str) -> UserError:
    """The error for an address without a bucket."""
    return UserError(
        f"There is no bucket {address.split('/')[2]} for {address}: make it, check the name, or name the store that "
        "has it in the environment (AWS_ENDPOINT_URL, AWS_REGION)."
    )


def sentence(address: str, error: Exception) -> Exception:
    """What the store said, as an error that says what to do."""
    whole = _NOISE.sub("", str(error).partition("Debug source")[0])
    code, loud = re.search("<Code>(.+?)</Code>", whole), whole.upper()
    said = re.sub("; Details:.*", "", whole.partition("\n")[0]) if code is None else code[1]
    if isinstance(error, UserError) or (isinstance(error, FileNotFoundError) and not _ABSENT.search(loud)):
        return error
    credentials = (
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role"
        if address.startswith("s3:")
        else "GOOGLE_APPLICATION_CREDENTIALS, or the machine's account"
    )
    if _ABSENT.search(loud):
        return no_bucket(address)
    if _REFUSED.search(loud):
        return UserError(
            f"The object store refuses {address} ({said}): give credentials that may use it ({credentials})."
        )
    if _SILENT.search(loud):
        return UserError(
            f"No object store answers for {address} ({said}): check the network, and the endpoint in the environment "
            "(AWS_ENDPOINT_URL, AWS_REGION)."
        )
    if isinstance(error, ValueError):
        return UserError(f"{address} is no address in an object store ({said}): write SCHEME://BUCKET/NAME.")
    return WorkFailed(f"The object store failed for {address} ({said}): run this again, and what is done is kept.")
