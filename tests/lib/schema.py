# SPDX-License-Identifier: Apache-2.0
"""Checks JSON documents against the schemas of ctl/schema: the part of draft 2020-12 they use.

A keyword that is not known here is an error, not ignored: no rule may be left unchecked unseen.
"""

import json
import os
import re

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), "ctl", "schema")
TYPES = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool,
         "integer": int, "number": (int, float)}
SAYS_NOTHING = {"$schema", "$id", "$defs", "title", "description"}


class SchemaError(Exception):
    """The document is not as its schema says, or the schema has a rule unknown here."""


def is_type(value, name):
    """JSON's types: true is no number."""
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def same(a, b):
    """Equal as JSON: true is not 1."""
    return type(a) is type(b) and a == b


class Schemas:
    """The schemas of one directory."""

    def __init__(self, directory=DIRECTORY):
        self.directory = directory
        self.files = {}

    def load(self, name):
        if name not in self.files:
            with open(os.path.join(self.directory, name), encoding="utf-8") as file:
                self.files[name] = json.load(file)
        return self.files[name]

    def find(self, file, reference):
        """The schema a $ref means, and the file it lies in."""
        name, _, path = reference.partition("#")
        name = name or file
        schema = self.load(name)
        for part in path.strip("/").split("/") if path.strip("/") else []:
            schema = schema[part]
        return name, schema

    def check(self, name, value):
        """SchemaError unless value is as the file `name` says."""
        self.check_part(name, self.load(name), value, "$")

    def check_part(self, file, schema, value, at):
        if isinstance(schema, bool):
            if not schema:
                raise SchemaError(f"{at}: nothing is allowed here")
            return
        for keyword, rule in schema.items():
            if keyword in SAYS_NOTHING:
                continue
            method = getattr(self, "rule_" + keyword.replace("$", ""), None)
            if not method:
                raise SchemaError(f"{file}: keyword {keyword} is not known")
            method(file, schema, rule, value, at)

    # --- one method for each keyword ---

    def rule_ref(self, file, _, rule, value, at):
        self.check_part(*self.find(file, rule), value, at)

    def rule_type(self, _file, _, rule, value, at):
        names = rule if isinstance(rule, list) else [rule]
        if not any(is_type(value, name) for name in names):
            raise SchemaError(f"{at}: {value!r:.80} is no {' or '.join(names)}")

    def rule_const(self, _file, _, rule, value, at):
        if not same(value, rule):
            raise SchemaError(f"{at}: {value!r:.80} is not {rule!r}")

    def rule_enum(self, _file, _, rule, value, at):
        if not any(same(value, one) for one in rule):
            raise SchemaError(f"{at}: {value!r:.80} is none of {rule}")

    def rule_minimum(self, _file, _, rule, value, at):
        if is_type(value, "number") and value < rule:
            raise SchemaError(f"{at}: {value} is below {rule}")

    def rule_maximum(self, _file, _, rule, value, at):
        if is_type(value, "number") and value > rule:
            raise SchemaError(f"{at}: {value} is above {rule}")

    def rule_minLength(self, _file, _, rule, value, at):  # pylint: disable=invalid-name
        if isinstance(value, str) and len(value) < rule:
            raise SchemaError(f"{at}: {value!r} is shorter than {rule}")

    def rule_pattern(self, _file, _, rule, value, at):
        if isinstance(value, str) and not re.search(rule, value):
            raise SchemaError(f"{at}: {value!r:.80} does not match {rule}")

    def rule_properties(self, file, _, rule, value, at):
        for key, schema in rule.items() if isinstance(value, dict) else ():
            if key in value:
                self.check_part(file, schema, value[key], f"{at}.{key}")

    def rule_required(self, _file, _, rule, value, at):
        missing = [key for key in rule if isinstance(value, dict) and key not in value]
        if missing:
            raise SchemaError(f"{at}: {', '.join(missing)} is missing")

    def rule_additionalProperties(self, file, schema, rule, value, at):  # pylint: disable=C0103
        for key in value if isinstance(value, dict) else ():
            if key not in schema.get("properties", {}):
                self.check_part(file, rule, value[key], f"{at}.{key}")

    def rule_items(self, file, _, rule, value, at):
        for i, item in enumerate(value if isinstance(value, list) else ()):
            self.check_part(file, rule, item, f"{at}[{i}]")

    def rule_allOf(self, file, _, rule, value, at):  # pylint: disable=invalid-name
        for schema in rule:
            self.check_part(file, schema, value, at)

    def rule_anyOf(self, file, _, rule, value, at):  # pylint: disable=invalid-name
        problems = []
        for schema in rule:
            try:
                self.check_part(file, schema, value, at)
                return
            except SchemaError as problem:
                problems.append(str(problem))
        raise SchemaError(f"{at}: none of its forms: {'; '.join(problems)}")
