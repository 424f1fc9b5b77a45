#!/usr/bin/env python3
"""Has Prometheus' own tool read deploy/prometheus/, and tests each alert and recording rule (rules.test.yml, beside this).

Then it breaks the rules, one part at a time, and wants a test to fail each time: a part that no test needs is not tested, or
not needed. promtool, PyYAML. Ends with `N passed, N failed`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "roadstead.rules.yml"
TESTS = Path(__file__).resolve().parent / "rules.test.yml"


def promtool(*words):
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=120)


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def name(rule):
    return rule.get("alert") or rule["record"]


def tested(test):
    """The names of the rules that a test is about."""
    return ({each["alertname"] for each in test.get("alert_rule_test", ())}
            | {each["expr"].partition("{")[0] for each in test.get("promql_expr_test", ())})


def broken(rule):
    """(what is broken, the rule with that broken): each part of it once."""
    expression = rule["expr"]

    def of(what, **keys):
        return what, {**rule, **keys}

    yield of("never", expr="vector(1) == 2")
    if "for" in rule:
        yield "at once", {key: value for key, value in rule.items() if key != "for"}
    elif "alert" in rule:
        yield of("always", expr=f"({expression}) or on () vector(1)")
    # Each condition, and each figure that one compares with.
    for found in re.finditer(r"(==|>=|<=|>|<) (\d[\d.]*)", expression):
        head, tail = expression[:found.start()], expression[found.end():]
        sign, number = found.groups()
        if float(number) == 0 or sign == "==":
            other = {">": ">=", "<": "<=", "==": "!="}[sign]
            yield of(f"{found[0]!r} is {other!r}", expr=f"{head}{other} {number}{tail}")
        else:
            for by in (2, 0.5):
                yield of(f"{found[0]!r} by {by}", expr=f"{head}{sign} {float(number) * by}{tail}")
    # Each matcher of each selector, and each value of those that have several.
    for selector in re.finditer(r"\{([^}]*)\}", expression):
        matchers = re.findall(r'\w+(?:=~|!~|!=|=)"[^"]*"', selector[1])
        for place, matcher in enumerate(matchers):
            def without(replaced=()):
                kept = [*matchers[:place], *replaced, *matchers[place + 1:]]
                return expression[:selector.start()] + "{" + ",".join(kept) + "}" + expression[selector.end():]

            yield of(f"without {matcher}", expr=without())
            key, sign, value = re.fullmatch(r'(\w+)(=~|!~)?(?:!=|=)?"(.*)"', matcher).groups()
            values = value.split("|")
            for one in values if sign and len(values) > 1 else ():
                kept = "|".join(each for each in values if each != one)
                yield of(f"{matcher} without {one}", expr=without([f'{key}{sign}"{kept}"']))


class Rules(unittest.TestCase):
    def assertPasses(self, ran):
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def test_the_configuration(self):
        """With the rules that it names."""
        self.assertPasses(promtool("check", "config", PROMETHEUS / "prometheus.yml"))

    def test_each_rule_does_what_it_is_for(self):
        self.assertPasses(promtool("test", "rules", TESTS))

    def test_each_rule_is_tested(self):
        """For an alert both: series for which it is silent, and series for which it is not."""
        tests = yaml.safe_load(TESTS.read_text())["tests"]
        alerts = [each for test in tests for each in test.get("alert_rule_test", ())]
        fires = {each["alertname"] for each in alerts if each["exp_alerts"]}
        silent = {each["alertname"] for each in alerts if not each["exp_alerts"]}
        records = {each["expr"].partition("{")[0] for test in tests for each in test.get("promql_expr_test", ())}
        names = {"alert": set(), "record": set()}
        for rule in rules():
            names["alert" if "alert" in rule else "record"].add(name(rule))
        self.assertEqual((fires, silent, records), (names["alert"], names["alert"], names["record"]))

    def test_no_part_of_a_rule_can_be_broken_unseen(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)

            def unseen(number, rule, changed):
                # By itself, with what is about it: the whole takes minutes.
                file = folder / f"{number}.rules.yml"
                file.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [changed]}]}))
                # A rule that cannot be read would fail, too.
                self.assertPasses(promtool("check", "rules", file))
                tests = yaml.safe_load(TESTS.read_text())
                tests["rule_files"] = [file.name]
                tests["tests"] = [test for test in tests["tests"] if name(rule) in tested(test)]
                (folder / f"{number}.test.yml").write_text(yaml.safe_dump(tests))
                return promtool("test", "rules", folder / f"{number}.test.yml").returncode == 0

            whole = [name(rule) for place, rule in enumerate(rules()) if not unseen(f"whole-{place}", rule, rule)]
            self.assertEqual(whole, [], "they fail although nothing is broken")
            cases = [(rule, changed, f"{name(rule)}: {what}") for rule in rules() for what, changed in broken(rule)]
            self.assertGreater(len(cases), 4 * len(rules()))
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                passes = pool.map(lambda case: unseen(case[0], *case[1][:2]), enumerate(cases))
                self.assertEqual([case[2] for case, passed in zip(cases, passes) if passed], [])


def main():
    if not shutil.which("promtool"):
        sys.exit("Missing: promtool, of Prometheus. tests/run gets it.")
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
