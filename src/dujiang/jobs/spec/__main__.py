"""`python -m dujiang.jobs.spec > docs/job.schema.json` writes the published schema anew."""

import json
import sys

from dujiang.jobs.spec.schema import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
