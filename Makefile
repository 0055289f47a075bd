# `make` lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
TOOLS := $(TARGET)/tools
LEFT_OUT := $(TARGET)/tmp/left-out.txt
KAFKA_JARS := tests/kafka/lib

BENCH_PYTHON := $(TARGET)/bench-venv

.PHONY: help setup demo test soak simulate-faults fuzz rolling traces bench lint check-deploy prometheus-rule deb audit schema kafka-jars clean screenshot

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name what; do printf '  make %-15s %s\n' "$$name" "$$what"; done

setup: ## installs missing packages on this machine, or lists them
	@scripts/setup.sh test && echo "Everything that is needed is there."

demo: ## runs the demo on a broker and a database of its own (ARGS="--help" for more)
	@scripts/setup.sh demo
	@cargo run --quiet --locked -- demo $(ARGS)

# Most tests wait for time-outs of Kafka: four threads take two thirds of the time of two on two processors.
test: ## runs all tests, and lists those left out, with the reason (ARGS="name" for some of them)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kafka-jars || true
	@mkdir -p $(dir $(LEFT_OUT)) && : > $(LEFT_OUT)
	@status=0; RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} cargo test --locked $(ARGS) || status=$$?; \
	if [ -s $(LEFT_OUT) ]; then \
		printf '\n%s tests were left out:\n' "$$(sort -u $(LEFT_OUT) | wc -l | tr -d ' ')"; sort -u $(LEFT_OUT) | sed 's/^left out: /  /'; \
	else \
		printf '\nNo test was left out.\n'; \
	fi; \
	exit $$status

fuzz: ## decodes N=10000000 generated records, and measures hostile ones
	@scripts/setup.sh demo
	@FUZZ_INPUTS=$(or $(N),10000000) cargo test --locked --release \
		--config 'profile.release.package.voiceclone-events.overflow-checks=true' \
		--test it -- --ignored --nocapture --test-threads=1 fuzz::

rolling: ## runs the version of commit OLDER and this one in one group, through a migration and back
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kafka-jars
	@rm -rf $(TARGET)/older && mkdir -p $(TARGET)/older && git archive $(OLDER) | tar -x -C $(TARGET)/older
	@cargo build --locked --manifest-path $(TARGET)/older/Cargo.toml --target-dir $(TARGET)/older/target --bin voiceclone-events
	@OLDER_PROGRAM="$(abspath $(TARGET))/older/target/debug/voiceclone-events" cargo test --locked --test it deploy::an_older_version

traces: ## shows the spans that the real OpenTelemetry Collector writes; Go builds it in some minutes
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kafka-jars $(TOOLS)/bin/collector
	@cargo test --quiet --locked --test it -- --ignored --exact --nocapture \
		collector::the_real_collector_takes_the_spans_of_a_batch_an_expiry_and_a_round_of_publishing

$(TOOLS)/bin/collector: tests/collector/main.go tests/collector/go.mod
	@echo "Building the Collector to $@"
	@mkdir -p $(TOOLS)/collector $(TOOLS)/bin && cp tests/collector/main.go tests/collector/go.mod $(TOOLS)/collector
	@cd $(TOOLS)/collector && GOFLAGS="-mod=mod -buildvcs=false" go build -o "$(abspath $(TOOLS))/bin/collector" .

bench: ## runs the benchmark on this machine, which takes a while (ARGS="--help" for more)
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory kafka-jars $(BENCH_PYTHON)/.complete
	@cargo bench --locked --bench bench -- --python "$(abspath $(BENCH_PYTHON))/bin/python" $(ARGS)

# The packages of the Python consumer for the comparison of the benchmark, which is left out without them.
$(BENCH_PYTHON)/.complete: bench/baseline/requirements.txt
	@if python3 -m venv $(BENCH_PYTHON) && $(BENCH_PYTHON)/bin/pip install --quiet --disable-pip-version-check -r $<; \
	then touch $@; else rm -rf $(BENCH_PYTHON); fi

soak: ## injects random faults from SEED=1, for DURATION=10m at least and until RECORDS=0 were sent
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kafka-jars
	@FIRE_DURATION=$(DURATION) FIRE_SEED=$(SEED) FIRE_RECORDS=$(RECORDS) \
		cargo test --quiet --locked --release \
		--config 'profile.release.package.voiceclone-events.overflow-checks=true' \
		--test it -- --ignored --exact --nocapture fire::soak

simulate-faults: ## simulates DAYS=10000 days of faults from SEED=1, each in milliseconds
	@SIMULATION_SEED=$(SEED) SIMULATION_DAYS=$(DAYS) cargo test --quiet --locked --release \
		--config 'profile.release.package.voiceclone-events.overflow-checks=true' \
		--lib -- --ignored --exact --nocapture consumer::simulation::tests::simulate_faults

lint: ## checks the format, and runs Clippy
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

check-deploy: ## checks manifests, chart, compose file, Dockerfile, unit and package, and lists what was left out
	@scripts/check-deploy.sh

prometheus-rule: ## generates the PrometheusRule of the manifests from deploy/prometheus/rules.yml
	@scripts/prometheus-rule.sh > deploy/kubernetes/monitoring/prometheusrule.yaml

deb: ## builds the Debian package with cargo-deb, to target/debian
	@PATH="$(abspath $(TOOLS))/bin:$$PATH"; export PATH; \
	cargo deb --version >/dev/null 2>&1 || cargo install --locked --root $(TOOLS) --target-dir $(TOOLS)/build cargo-deb; \
	cargo build --release --locked --bin voiceclone-events && \
	$(TARGET)/release/voiceclone-events man > $(TARGET)/release/voiceclone-events.1 && \
	cargo deb --locked --no-build

audit: ## checks licences, sources and known vulnerabilities of dependencies with cargo-deny
	@PATH="$(abspath $(TOOLS))/bin:$$PATH"; export PATH; \
	case "$$(cargo deny --version 2>/dev/null)" in \
		''|'cargo-deny 0.'[0-9].*|'cargo-deny 0.1'[0-7].*) cargo install --locked --root $(TOOLS) --target-dir $(TOOLS)/build cargo-deny;; \
	esac && \
	cargo deny --locked check --hide-inclusion-graph licenses bans sources && \
	if cargo deny --locked fetch db; then \
		cargo deny --locked check --hide-inclusion-graph advisories; \
	else \
		echo "NOT CHECKED: known weaknesses. The database of advisories could not be fetched from here."; \
	fi

schema: ## generates schema.rs and schema_ingest.rs from the migrations, with diesel_cli and a throw-away database
	@scripts/setup.sh demo
	@PATH="$(abspath $(TOOLS))/bin:$$PATH"; export PATH; \
	command -v diesel >/dev/null || cargo install --locked --root $(TOOLS) --target-dir $(TOOLS)/build \
		diesel_cli --no-default-features --features postgres-bundled; \
	cargo test --quiet --locked --test it -- --ignored --exact schema::regenerate

screenshot: ## takes docs/page.png again, with a real Kafka and Chromium
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory kafka-jars
	@cargo test --quiet --locked --test it -- --ignored --exact page::screenshot

kafka-jars: $(KAFKA_JARS)/.complete ## downloads the Kafka of the tests, with Maven

$(KAFKA_JARS)/.complete: tests/kafka/pom.xml
	@echo "Fetching Kafka to $(KAFKA_JARS)"
	@rm -rf $(KAFKA_JARS)
	@mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$(abspath $(KAFKA_JARS))"
	@touch $@

clean: ## removes all build output, but not the downloaded Kafka of the tests (tests/kafka/lib)
	cargo clean
