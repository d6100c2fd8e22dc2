"""Merging of multilingual translation models: merge them, repair what merging breaks, and look into them.

Nothing is imported before it is used: `dir(mmtmerge)` lists what there is, and `help(mmtmerge.merge_checkpoints)`
explains it.

Merge         merge_checkpoints (folders), merge_state_dicts (in memory)
Repair        repair_checkpoints (one trunk, a small part for each direction), Routed (use it), expand
Look inside   load_model, record, save_recording, load_recording, select_neurons, cka, principal_angles
The study     load (settings of a profile), open_corpus, Results (what its runs have written)
Mistakes      UserError: the message names the file, the value and how to correct it

The command line does the same: `mmtmerge --help`.
"""

__version__ = "0.2.0"

from .lazy import OFFERED, lazy, show_parameters

show_parameters()
__getattr__, __dir__ = lazy(globals(), OFFERED)
__all__ = ["__version__", *OFFERED]
