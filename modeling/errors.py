"""Sentences that more than one room says."""


def no_model(name: str, error: OSError) -> ValueError:
    """Of a model that neither a folder nor the Hub has.

    Args:
        name: what was given, with its flag.
        error: what transformers says.
    """
    reason = str(error).splitlines()[0]
    return ValueError(f"{name} is no folder with a model, and not to be had from the Hub: {reason}")
