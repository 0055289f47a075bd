# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
# librdkafka is built from source; OpenSSL and zlib are linked as shared libraries.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# The dependencies, in a layer that lasts until Cargo.toml or Cargo.lock change. Cargo.toml names a test and a benchmark,
# so that there must be a file for each.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it bench \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs bench/main.rs build.rs >/dev/null \
    && touch src/lib.rs \
    && cargo build --release --locked --bins \
    && rm -r src

# The migrations, schema.rs and the page become part of the program.
COPY build.rs diesel.toml schema.rs ./
COPY migrations migrations
COPY templates templates
COPY src src
# Cargo goes by the files' times, and those of a checkout may be older than the layer above.
RUN touch build.rs src/main.rs src/lib.rs \
    && cargo build --release --locked --bins

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin voiceclone
COPY --from=build /build/target/release/voiceclone-events /usr/local/bin/
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["voiceclone-events"]
CMD ["run", "--migrate"]
