"""Work that is described elsewhere, in our words: what could be kept, and what not.

`is_foreign` tells such a text from ours, `convert` makes jobs of it, `to_yaml` writes them. Pure: reads no file.
"""

from dujiang.jobs.converting.draft import Converted
from dujiang.jobs.converting.printing import document_yaml, to_yaml
from dujiang.jobs.converting.recognising import Conversion, convert, is_foreign
from dujiang.jobs.converting.report import Note
from dujiang.jobs.converting.slurm.sbatch import Around

__all__ = ["Around", "Conversion", "Converted", "Note", "convert", "document_yaml", "is_foreign", "to_yaml"]
