# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
# librdkafka is built from source; OpenSSL and zlib are linked as shared libraries. No versions of packages are pinned
# here or below: Debian replaces them with each fix, and the old ones are gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# The dependencies, in a layer that lasts until Cargo.toml or Cargo.lock change. Cargo.toml names a test and a benchmark,
# so that there must be a file for each.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it bench \
    && for file in src/main.rs tests/it/main.rs bench/main.rs build.rs; do echo 'fn main() {}' >"$file"; done \
    && touch src/lib.rs \
    && cargo build --release --locked --bins \
    && rm -r src

# The migrations, the tables, the page and the schemas of the events become part of the program.
COPY build.rs diesel.toml schema.rs schema_ingest.rs ./
COPY migrations migrations
COPY templates templates
COPY schemas schemas
COPY src src
# Shown by voiceclone_build_info: docker build --build-arg SOURCE_REVISION="$(git rev-parse --short HEAD)"
ARG SOURCE_REVISION
# Cargo goes by the files' times, and those of a checkout may be older than the layer above.
RUN touch build.rs src/main.rs src/lib.rs \
    && cargo build --release --locked --bins

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 voiceclone \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin voiceclone
COPY --from=build /build/target/release/voiceclone-events /usr/local/bin/
USER 10001:10001
# Loopback, the program's default, would be inside the container only.
ENV HTTP_ADDR=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["voiceclone-events"]
CMD ["run", "--migrate"]
