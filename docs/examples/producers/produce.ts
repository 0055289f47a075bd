// Publishes the events of one call, each one checked against its JSON Schema before it is sent.
//
// KAFKA_BOOTSTRAP_SERVERS  the brokers
// TOPIC_PREFIX             what precedes the name of each topic, as in the daemon's settings
// SCHEMAS                  the folder with clone.ready.schema.json and the others (the current folder by default)

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import Ajv, { type ValidateFunction } from "ajv";
import { Kafka, Partitioners, type Producer } from "kafkajs";

/** Each topic with the field that is the key of its records. */
const KEYS = {
  "clone.ready": "caller_id",
  "clone.failed": "caller_id",
  "clone.transfer": "greeting_call_id",
  "call.lifecycle": "call_id",
  "caller.voice_mapping": "caller_id",
} as const;

export type Topic = keyof typeof KEYS;
export type Mode = "bare" | "binary" | "structured";
export type Event = Record<string, unknown>;

/** An event that its schema does not allow. Nothing was sent. */
export class Refused extends Error {}

export class Events {
  private readonly producer: Producer;
  private readonly validators = new Map<string, ValidateFunction>();

  constructor(
    brokers: string,
    schemas: string,
    private readonly prefix = "",
  ) {
    // The patterns say what the daemon takes; `format` and `x-personal-data` are for people and generators.
    const ajv = new Ajv({ strict: false, validateFormats: false });
    for (const topic of Object.keys(KEYS)) {
      const schema = JSON.parse(readFileSync(join(schemas, `${topic}.schema.json`), "utf8"));
      this.validators.set(topic, ajv.compile(schema));
    }
    const kafka = new Kafka({ clientId: "greeting-service", brokers: brokers.split(",") });
    this.producer = kafka.producer({
      idempotent: true, // no record is lost or doubled by a retry
      createPartitioner: Partitioners.DefaultPartitioner, // as producers in Java
    });
  }

  connect(): Promise<void> {
    return this.producer.connect();
  }

  close(): Promise<void> {
    return this.producer.disconnect();
  }

  /** Throws Refused. The message names the field and the rule, and quotes no value: values may be personal. */
  check(topic: Topic, event: Event): void {
    const validate = this.validators.get(topic);
    if (!validate || validate(event)) return;
    const error = validate.errors?.[0];
    const field = error?.instancePath.slice(1).replaceAll("/", ".") || "the event";
    const rule = error?.keyword === "required" ? error.message : error?.keyword;
    throw new Refused(`${topic}: ${field}: ${rule}`);
  }

  /** Sends an event and waits until the broker has it: bare, or as a CloudEvent in binary or structured mode. */
  async send(topic: Topic, event: Event, mode: Mode = "bare"): Promise<void> {
    this.check(topic, event);
    const attributes = {
      specversion: "1.0",
      id: randomUUID(),
      source: "greeting-service",
      type: topic,
      time: new Date().toISOString(),
    };
    let value: Event = event;
    let headers: Record<string, string> = { "content-type": "application/json" };
    if (mode === "binary") {
      for (const [name, text] of Object.entries(attributes)) headers[`ce_${name}`] = text;
    } else if (mode === "structured") {
      value = { ...attributes, data: event };
      headers = { "content-type": "application/cloudevents+json" };
    }
    const key = String(event[KEYS[topic]]);
    await this.producer.send({
      topic: this.prefix + topic,
      messages: [{ key, value: JSON.stringify(value), headers }],
    });
  }
}

async function main(): Promise<void> {
  const { KAFKA_BOOTSTRAP_SERVERS = "localhost:9092", TOPIC_PREFIX = "", SCHEMAS = "." } = process.env;
  const events = new Events(KAFKA_BOOTSTRAP_SERVERS, SCHEMAS, TOPIC_PREFIX);
  await events.connect();
  const now = () => new Date().toISOString();
  const caller = "+12025550143";
  const [greeting, agent, voice] = ["greet", "agent", "voice"].map((name) => `${name}-${randomUUID()}`);
  await events.send("call.lifecycle", {
    call_id: greeting,
    status: "initiated",
    occurred_at: now(),
    caller_id: caller,
  });
  await events.send(
    "clone.ready",
    {
      caller_id: caller,
      greeting_call_id: greeting,
      cloned_voice_id: voice,
      ready_at: now(),
      clone_duration_ms: 2300,
    },
    "binary",
  );
  await events.send(
    "clone.transfer",
    { greeting_call_id: greeting, agent_call_id: agent, cloned_voice_id: voice, transferred_at: now() },
    "structured",
  );
  await events.send(
    "call.lifecycle",
    { call_id: agent, status: "completed", occurred_at: now(), transcript: "Hello." },
    "structured",
  );
  await events.close();
  console.log("4 events sent");
}

if (require.main === module) {
  main().catch((error: unknown) => {
    console.error(error);
    process.exitCode = 1;
  });
}
