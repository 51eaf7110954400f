"""docs/openapi.yaml against the server, for longer than in the short run and with other seeds."""
import pathlib
import sys
import unittest

from server import Server

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "system"))
from test_openapi import FLAGS, schemathesis


class Long(unittest.TestCase):
    def test_what_schemathesis_makes_of_it(self):
        with Server(*FLAGS) as s:
            for seed in (2, 3):
                with self.subTest(seed=seed):
                    found = schemathesis(s, "--seed", str(seed), "--max-examples", "150")
                    if found:
                        self.fail(found)
