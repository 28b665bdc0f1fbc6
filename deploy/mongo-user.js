// Runs once, when the volume is empty. The app's user is the only one: whoever needs an administrator drops
// the volume instead, for the read models are rebuilt from NATS.
db.getSiblingDB("admin").createUser({
  user: "registry",
  pwd: process.env.REGISTRY_MONGODB_PASSWORD,
  roles: [{ role: "readWrite", db: process.env.REGISTRY_MONGODB_DATABASE }],
});
