# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin atmosphere

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/atmosphere --create-home atmosphere \
    && groupmod --gid 10001 atmosphere \
    # For an invite that nodes share by a volume, which gets its owner from here.
    && install -d -o atmosphere -g atmosphere -m 0700 /run/atmosphere \
    && chown -R atmosphere:atmosphere /var/lib/atmosphere
COPY --from=build /src/target/release/atmosphere /usr/local/bin/atmosphere
USER 10001:10001
# Identity and snapshots: keep it, or the node is another one after every update.
VOLUME /var/lib/atmosphere
ENV ATMOSPHERE_HOME=/var/lib/atmosphere
# The API, and the mesh on UDP (QUIC) and TCP.
EXPOSE 11451/tcp 11450/udp 11450/tcp
# It asks the node on this machine; give ATMOSPHERE_API_KEY as well when the node wants keys.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["atmosphere", "status", "--json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["atmosphere"]
# In a container the API must listen on all addresses to be reached from outside, and then it wants keys
# (ATMOSPHERE_API_KEYS), or the word that it needs none (ATMOSPHERE_API_ALLOW_NO_AUTH=true).
CMD ["start", "--bind", "0.0.0.0"]
