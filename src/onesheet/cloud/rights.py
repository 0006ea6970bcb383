"""Who may do what: rights on a resource, added to those that are there, and the bucket with its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.api_core import exceptions
from google.iam.v1 import iam_policy_pb2, options_pb2, policy_pb2
from google.protobuf import json_format

from onesheet.cloud.google import Google, told
from onesheet.errors import CloudError

# With conditions; https://cloud.google.com/iam/docs/policies#specifying-version-get
_POLICY_VERSION: Final = 3
# A policy that somebody else changed in between is read again.
_GRANT_ATTEMPTS: Final = 5


@dataclass(frozen=True)
class Binding:
    """Who may do what.

    Attributes:
        role: Such as `roles/run.viewer`.
        member: Such as `serviceAccount:…`.
        condition: Under which, as an expression of IAM.
    """

    role: str
    member: str
    condition: str = ""

    def as_json(self) -> dict[str, Any]:
        """As IAM has it."""
        shown: dict[str, Any] = {"role": self.role, "members": [self.member]}
        return {**shown, "condition": {"title": "onesheet", "expression": self.condition}} if self.condition else shown


@dataclass(frozen=True)
class Grant:
    """Bindings that a resource's policy gets beside those that it has.

    Attributes:
        what: It is about.
        api: The service, as `Google` calls it.
        resource: Its name there.
        bindings: To be there.
    """

    what: str
    api: str
    resource: str
    bindings: tuple[Binding, ...]

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        added = [binding.as_json() for binding in self.bindings]
        return {"call": f"{self.api}.set_iam_policy", "resource": self.resource, "added to its policy": added}

    def send(self, google: Google) -> None:
        """Read the policy, add what is missing, write it if anything was.

        Raises:
            CloudError: It was refused or failed.
        """
        for attempt in range(1, _GRANT_ATTEMPTS + 1):
            try:
                self._add(google)
            except CloudError as error:
                if not isinstance(error.__cause__, exceptions.Aborted) or attempt == _GRANT_ATTEMPTS:
                    raise CloudError(f"{self.what}: {error.message}") from error
            else:
                return

    def _add(self, google: Google) -> None:
        options = options_pb2.GetPolicyOptions(requested_policy_version=_POLICY_VERSION)
        wanted = iam_policy_pb2.GetIamPolicyRequest(resource=self.resource, options=options)
        policy = google.call(self.api, "get_iam_policy", wanted)
        missing = _missing([json_format.MessageToDict(one) for one in policy.bindings], self.bindings)
        if not missing:
            return
        policy.bindings.extend(json_format.ParseDict(one, policy_pb2.Binding()) for one in missing)
        policy.version = _POLICY_VERSION
        google.call(
            self.api, "set_iam_policy", iam_policy_pb2.SetIamPolicyRequest(resource=self.resource, policy=policy)
        )


@dataclass(frozen=True)
class MakeBucket:
    """A bucket, if it is not there, and who may do what in it.

    Attributes:
        name: Of the bucket.
        location: Where it lies.
        delete_after_days: Prefixes whose objects are removed after so many days.
        bindings: To be in its policy.
    """

    name: str
    location: str
    delete_after_days: dict[str, int]
    bindings: tuple[Binding, ...]

    @property
    def what(self) -> str:
        """The bucket."""
        return f"bucket {self.name}"

    def shown(self) -> dict[str, Any]:
        """As JSON, the bucket as Cloud Storage has it."""
        return {
            "call": "storage.buckets.insert",
            "request": {
                "name": self.name,
                "location": self.location,
                "iamConfiguration": {
                    "uniformBucketLevelAccess": {"enabled": True},
                    "publicAccessPrevention": "enforced",
                },
                "lifecycle": {"rule": self._rules()},
            },
            "added to its policy": [binding.as_json() for binding in self.bindings],
        }

    def send(self, google: Google) -> None:
        """Make it and add what its policy lacks.

        Raises:
            CloudError: It was refused or failed; the name is taken by somebody else.
        """
        bucket = google.storage.bucket(self.name)
        with told():
            if not bucket.exists():
                bucket.iam_configuration.uniform_bucket_level_access_enabled = True
                bucket.iam_configuration.public_access_prevention = "enforced"
                bucket.lifecycle_rules = self._rules()
                bucket.create(location=self.location)
            policy = bucket.get_iam_policy(requested_policy_version=_POLICY_VERSION)
            missing = _missing(policy.bindings, self.bindings)
            if missing:
                policy.bindings = [*policy.bindings, *missing]
                policy.version = _POLICY_VERSION
                bucket.set_iam_policy(policy)

    def _rules(self) -> list[dict[str, Any]]:
        return [
            {"action": {"type": "Delete"}, "condition": {"age": days, "matchesPrefix": [prefix]}}
            for prefix, days in self.delete_after_days.items()
        ]


def _missing(there: Iterable[Mapping[str, Any]], wanted: Iterable[Binding]) -> list[dict[str, Any]]:
    """Those of the bindings that a policy's do not have."""
    had = {
        (one["role"], member, (one.get("condition") or {}).get("expression", ""))
        for one in there
        for member in one["members"]
    }
    return [one.as_json() for one in wanted if (one.role, one.member, one.condition) not in had]
