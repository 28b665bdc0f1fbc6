"""How to send heartbeats, from wherever a service lives. Pure."""

from typing import NamedTuple


class Snippet(NamedTuple):
    id: str
    title: str
    note: str
    text: str


def snippets(ingest_url: str, name: str, token: bool) -> list[Snippet]:
    """For a service of this name. `token`: heartbeats need one, of which the reader knows the value."""
    url = f"{ingest_url.rstrip('/')}/heartbeat/{name}"
    flag = "-H 'Authorization: Bearer YOUR_INGEST_TOKEN' " if token else ""
    query = "?token=YOUR_INGEST_TOKEN" if token else ""
    headers = '{"Authorization": "Bearer YOUR_INGEST_TOKEN"}'
    python = f", headers={headers}" if token else ""
    node = f", headers: {headers}" if token else ""
    go_header = '\n\treq.Header.Set("Authorization", "Bearer YOUR_INGEST_TOKEN")' if token else ""
    n8n = "\nSend Headers: Authorization = Bearer YOUR_INGEST_TOKEN" if token else ""
    curl = f"curl -fsS -m 10 --retry 3 {flag}"
    return [
        Snippet("curl", "curl", "", f"{curl}-X POST {url}"),
        Snippet(
            "cron",
            "cron",
            "The exit code decides: 0 is alive, else down at once. The start makes its duration known, and "
            "says that it comes once a day.",
            f'0 3 * * *  {curl}"{url}/start?every=1d"; /usr/local/bin/backup; {curl}{url}/$?',
        ),
        Snippet(
            "systemd",
            "systemd",
            "In the [Service] section of a unit that a timer starts once a day.",
            f"ExecStartPre=-{curl}{url}/start?every=1d\n"
            f"ExecStopPost=-/bin/sh -c '{_quoted(curl)}{url}/${{EXIT_STATUS:-fail}}'",
        ),
        Snippet(
            "docker",
            "Docker health check",
            "In a Dockerfile: a container that is healthy says so. Its image needs curl.",
            "HEALTHCHECK --interval=1m --timeout=10s \\\n"
            f"  CMD curl -fsS http://localhost:8080/healthz && {curl}{url}",
        ),
        Snippet(
            "python",
            "Python",
            "Needs httpx: pip install httpx.",
            f'import httpx\n\nhttpx.post("{url}"{python}, timeout=5).raise_for_status()',
        ),
        Snippet(
            "python-async",
            "Python, async",
            "Beats once a minute beside your work; a failure to say so never disturbs it. Needs httpx.",
            f"""import asyncio
import contextlib
import httpx

async def beat():
    async with httpx.AsyncClient(timeout=5) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await client.post("{url}"{python})
            await asyncio.sleep(60)

# within your running program: task = asyncio.create_task(beat())""",
        ),
        Snippet(
            "node",
            "Node.js",
            "",
            f"""setInterval(() => {{
  fetch("{url}", {{ method: "POST", signal: AbortSignal.timeout(5000){node} }}).catch(() => {{}});
}}, 60_000);""",
        ),
        Snippet(
            "go",
            "Go",
            "",
            f"""package main

import (
	"net/http"
	"time"
)

func main() {{
	client := &http.Client{{Timeout: 5 * time.Second}}
	req, _ := http.NewRequest("POST", "{url}", nil){go_header}
	if res, err := client.Do(req); err == nil {{
		res.Body.Close()
	}}
}}""",
        ),
        Snippet(
            "github",
            "GitHub Actions",
            "The last step of a job that runs once a day; keep the token in a secret.",
            f"""- name: heartbeat
  if: always()
  run: |
    {curl.replace("YOUR_INGEST_TOKEN", "${{ secrets.REGISTRY_INGEST_TOKEN }}").replace("'", '"')}-X POST \
"{url}${{{{ job.status == 'success' && '/0' || '/fail' }}}}?every=1d\"""",
        ),
        Snippet(
            "n8n",
            "n8n",
            "An HTTP Request node at the end of the workflow.",
            f"Method: POST\nURL: {url}{n8n}",
        ),
        Snippet(
            "nats",
            "NATS",
            "Straight to the broker; an empty message is enough.",
            f"nats pub heartbeat.{name} ''\nnats pub heartbeat.{name} -H Registry-Signal:fail 'disk full'",
        ),
        Snippet(
            "mqtt",
            "MQTT",
            "Once MQTT is switched on in deploy/nats.conf.",
            f"mosquitto_pub -h YOUR_BROKER -t heartbeat/{name.replace('.', '/')} -q 1 -m ''",
        ),
        Snippet(
            "browser",
            "Anything that opens a URL",
            "Where neither method nor headers can be set.",
            f"{url}{query}",
        ),
    ]


def _quoted(text: str) -> str:
    """Within single quotes of a shell line."""
    return text.replace("'", '"')
