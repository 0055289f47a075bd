"""Publishes the events of one call, each one checked against its JSON Schema before it is sent.

KAFKA_BOOTSTRAP_SERVERS  the brokers
TOPIC_PREFIX             what precedes the name of each topic, as in the daemon's settings
SCHEMAS                  the folder with clone.ready.schema.json and the others (the current folder by default)
"""

import json
import os
import uuid
from datetime import datetime, timezone
from pathlib import Path

from confluent_kafka import Producer
from jsonschema import Draft7Validator

# Each topic with the field that is the key of its records.
KEYS = {
    "clone.ready": "caller_id",
    "clone.failed": "caller_id",
    "clone.transfer": "greeting_call_id",
    "call.lifecycle": "call_id",
    "caller.voice_mapping": "caller_id",
}


class Refused(ValueError):
    """An event that its schema does not allow. Nothing was sent."""


class Events:
    def __init__(self, brokers: str, schemas: Path, prefix: str = "") -> None:
        self._prefix = prefix
        self._failed: list[str] = []
        self._validators = {
            topic: Draft7Validator(json.loads((schemas / f"{topic}.schema.json").read_text("utf-8")))
            for topic in KEYS
        }
        self._producer = Producer(
            {
                "bootstrap.servers": brokers,
                "enable.idempotence": True,  # no record is lost or doubled by a retry
                "compression.type": "zstd",
                "partitioner": "murmur2_random",  # as producers in Java and JavaScript
            }
        )

    def check(self, topic: str, event: dict) -> None:
        """Raises Refused. The message names the field and the rule, and quotes no value: values may be personal."""
        for error in self._validators[topic].iter_errors(event):
            field = ".".join(str(part) for part in error.absolute_path) or "the event"
            rule = error.message if error.validator == "required" else error.validator
            raise Refused(f"{topic}: {field}: {rule}")

    def send(self, topic: str, event: dict, mode: str = "bare") -> None:
        """Sends an event: "bare", or as a CloudEvent in "binary" or "structured" mode."""
        self.check(topic, event)
        attributes = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": "greeting-service",
            "type": topic,
            "time": now(),
        }
        value, headers = event, {"content-type": "application/json"}
        if mode == "binary":
            headers |= {f"ce_{name}": text for name, text in attributes.items()}
        elif mode == "structured":
            value, headers = attributes | {"data": event}, {"content-type": "application/cloudevents+json"}
        self._producer.produce(
            self._prefix + topic,
            key=event[KEYS[topic]].encode(),
            value=json.dumps(value, ensure_ascii=False, allow_nan=False).encode(),
            headers=list(headers.items()),
            on_delivery=self._delivered,
        )
        self._producer.poll(0)

    def flush(self, seconds: float = 30) -> None:
        """Waits until the broker has everything that was sent."""
        left = self._producer.flush(seconds)
        if left or self._failed:
            raise RuntimeError(f"{left} records are not sent; errors: {self._failed}")

    def _delivered(self, error, _message) -> None:
        if error is not None:
            self._failed.append(str(error))


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def main() -> None:
    events = Events(
        os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        Path(os.environ.get("SCHEMAS", ".")),
        os.environ.get("TOPIC_PREFIX", ""),
    )
    caller = "+12025550143"
    greeting, agent, voice = (f"{name}-{uuid.uuid4()}" for name in ("greet", "agent", "voice"))
    events.send(
        "call.lifecycle",
        {"call_id": greeting, "status": "initiated", "occurred_at": now(), "caller_id": caller},
    )
    events.send(
        "clone.ready",
        {
            "caller_id": caller,
            "greeting_call_id": greeting,
            "cloned_voice_id": voice,
            "ready_at": now(),
            "clone_duration_ms": 2300,
        },
        mode="binary",
    )
    events.send(
        "clone.transfer",
        {"greeting_call_id": greeting, "agent_call_id": agent, "cloned_voice_id": voice, "transferred_at": now()},
        mode="structured",
    )
    events.send(
        "call.lifecycle",
        {"call_id": agent, "status": "completed", "occurred_at": now(), "transcript": "Hello."},
        mode="structured",
    )
    events.flush()
    print("4 events sent")


if __name__ == "__main__":
    main()
