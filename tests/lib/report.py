"""Runs the unittest cases of one file and prints a JSON line for each: name, status (ok, fail, skip), detail."""
import importlib.util
import json
import os
import sys
import traceback
import unittest

out = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what a test prints is chatter, not a result


def say(name, status, detail=""):
    out.write(json.dumps({"name": name, "status": status, "detail": detail}) + "\n")


def name_of(test):
    return ".".join(test.id().split(".")[-2:])


class Lines(unittest.TestResult):
    """A test with failing subtests is one failure; its subtests are told together."""

    def startTest(self, test):
        super().startTest(test)
        self.parts, self.skipped_now = [], None

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.parts.append(f"{subtest._subDescription()}:\n" + "".join(traceback.format_exception(*err)))

    def addError(self, test, err):
        text = "".join(traceback.format_exception(*err))
        if isinstance(test, unittest.TestCase):
            self.parts.append(text)
        else:  # setUpClass and the like
            say(getattr(test, "description", str(test)), "fail", text)

    addFailure = addError

    def addUnexpectedSuccess(self, test):
        self.parts.append("expected to fail, but passed")

    def addSkip(self, test, reason):
        if isinstance(test, unittest.TestCase):
            self.skipped_now = reason
        else:
            say(getattr(test, "description", str(test)), "skip", reason)

    def stopTest(self, test):
        super().stopTest(test)
        if self.parts:
            say(name_of(test), "fail", "\n".join(self.parts))
        elif self.skipped_now is not None:
            say(name_of(test), "skip", self.skipped_now)
        else:
            say(name_of(test), "ok")


def main():
    path, only = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(os.path.splitext(os.path.basename(path))[0], path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    if only:
        kept = unittest.TestSuite()
        for group in suite:
            cases = [t for t in group if only in name_of(t)]
            if cases:
                kept.addTest(unittest.TestSuite(cases))
        suite = kept
    suite.run(Lines())


main()
