#!/bin/sh
# Starts the broker of docker-compose.yml. Up to version 0.1 all streams were in the broker's account without a
# name; nats.conf has one for the registry, and its streams belong there.
old='/data/jetstream/$G' new=/data/jetstream/REGISTRY
if [ -d "$old" ] && [ ! -e "$new" ]; then
  mv "$old" "$new"
fi
exec nats-server --config /etc/nats/nats.conf
