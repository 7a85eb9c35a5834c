"""The real ``@fal-ai/client`` under Node against a server, through the proxy route and by rewritten addresses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_harness import SECRET, Running

APP = "fal-ai/latentsync"

BY_PROXY = 'fal.config({credentials: KEY, proxyUrl: {url: URL_ + "/api/fal/proxy", when: "always"}});'
BY_ADDRESS = """
const zones = {"https://fal.run": "", "https://queue.fal.run": "/queue", "https://rest.fal.ai": "/rest"};
const rewrite = url => {
  const [from, to] = Object.entries(zones).find(([from]) => url.startsWith(from));
  return URL_ + to + url.slice(from.length);
};
fal.config({credentials: KEY, requestMiddleware: async request => ({...request, url: rewrite(request.url)})});
"""


def javascript(node: Path, live: Running, code: str, *, config: str = BY_PROXY, key: str = SECRET) -> Any:
    """What ``code`` prints as JSON by calling ``say``."""
    head = f'import {{ fal }} from "@fal-ai/client"; import fs from "node:fs";\nconst URL_ = "{live.url}", KEY = "{key}";\n'
    tail = "const say = value => console.log(JSON.stringify(value));\n"
    script = node / "script.mjs"
    script.write_text(head + config + tail + code)
    done = subprocess.run(["node", str(script)], cwd=node, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def upload(live: Running, path: Path) -> str:
    about = {"file_name": path.name, "content_type": "video/mp4" if path.suffix == ".mp4" else "audio/wav"}
    urls = httpx.post(f"{live.url}/rest/storage/upload/initiate", json=about, headers=live.headers).json()
    httpx.put(urls["upload_url"], content=path.read_bytes()).raise_for_status()
    return urls["file_url"]


@pytest.mark.parametrize("config", [BY_PROXY, BY_ADDRESS], ids=["proxy", "address"])
@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_the_pages_example(node: Path, live: Running, pair: tuple[Path, Path], config: str, mode: str) -> None:
    code = f"""
    const lines = [], states = [];
    const result = await fal.subscribe("{APP}", {{
      input: {{video_url: "{upload(live, pair[0])}", audio_url: "{upload(live, pair[1])}"}},
      logs: true, mode: "{mode}", pollInterval: 100,
      onQueueUpdate: update => {{
        states.push(update.status);
        if (update.status === "IN_PROGRESS") update.logs.map(log => log.message).forEach(line => lines.push(line));
      }},
    }});
    say({{data: result.data, id: result.requestId, states, lines}});
    """
    said = javascript(node, live, code, config=config)
    video = said["data"]["video"]
    assert video["content_type"] == "video/mp4"
    assert len(httpx.get(video["url"]).content) == video["file_size"]
    assert live.server.queue.get(said["id"]) is not None
    assert said["states"][-1] == "COMPLETED"


def test_files_in_the_input_are_uploaded(node: Path, live: Running, pair: tuple[Path, Path]) -> None:
    code = f"""
    const file = (path, type) => new Blob([fs.readFileSync(path)], {{type}});
    const result = await fal.run("{APP}", {{
      input: {{video_url: file("{pair[0]}", "video/mp4"), audio_url: file("{pair[1]}", "audio/wav"), seed: 3}} }});
    say(result.data);
    """
    assert javascript(node, live, code)["video"]["file_size"] > 1000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("delete input.audio_url", "audio_url"),
        ("input.guidance_scale = 0.5", "guidance_scale"),
        ("input.guidance_scale = 3", "guidance_scale"),
        ('input.loop_mode = "bounce"', "loop_mode"),
        ('input.video_url = "nonsense"', "video_url"),
        ('input.video_url = "http://127.0.0.1:9/nothing.mp4"', "video_url"),
        ("input.video_url = input.audio_url", "video_url"),
    ],
)
def test_wrong_input(node: Path, live: Running, pair: tuple[Path, Path], change: str, field: str) -> None:
    code = f"""
    const input = {{video_url: "{upload(live, pair[0])}", audio_url: "{upload(live, pair[1])}"}};
    {change};
    try {{ await fal.subscribe("{APP}", {{input, pollInterval: 50}}); say("no error"); }}
    catch (error) {{ say({{name: error.name, status: error.status, fields: error.fieldErrors}}); }}
    """
    said = javascript(node, live, code)
    assert (said["name"], said["status"]) == ("ValidationError", 422)
    assert [each["loc"][-1] for each in said["fields"]] == [field]
    assert all(len(each["msg"]) > 10 for each in said["fields"])


@pytest.mark.parametrize("code", ["unreadable_video", "no_face"])
def test_videos_that_cannot_be_dubbed(
    node: Path, live: Running, pair: tuple[Path, Path], unfit: dict[str, Path], code: str
) -> None:
    said = javascript(
        node,
        live,
        f"""
    const input = {{video_url: "{upload(live, unfit[code])}", audio_url: "{upload(live, pair[1])}"}};
    try {{ await fal.subscribe("{APP}", {{input, pollInterval: 50}}); say("no error"); }}
    catch (error) {{ say({{name: error.name, fields: error.getFieldErrors("video_url")}}); }}
    """,
    )
    assert said["name"] == "ValidationError"
    (detail,) = said["fields"]
    assert (detail["loc"], detail["type"]) == (["body", "video_url"], code)
    assert len(detail["msg"]) > 10
    assert "/tmp" not in detail["msg"]


def test_large_files_come_in_parts(node: Path, live: Running) -> None:
    code = """
    const {createHash} = await import("node:crypto");
    const bytes = Buffer.alloc(95 * 1024 * 1024);
    for (let at = 0; at < bytes.length; at += 4096) bytes.writeUInt32LE(at, at);
    const url = await fal.storage.upload(new File([bytes], "long.mp4", {type: "video/mp4"}));
    const back = Buffer.from(await (await fetch(url)).arrayBuffer());
    const hash = data => createHash("sha256").update(data).digest("hex");
    say({url, same: hash(back) === hash(bytes), size: back.length});
    """
    said = javascript(node, live, code)
    assert said["same"]
    assert said["size"] == 95 << 20
    row = live.server.files.get(said["url"].split("/")[-2])
    assert row is not None
    assert row.arrived == row.size, "it came in parts"


def test_a_wrong_key(node: Path, live: Running) -> None:
    code = f"""
    try {{ await fal.queue.submit("{APP}", {{input: {{}} }}); }}
    catch (error) {{ say([error.status, error.body.detail]); }}
    """
    status, detail = javascript(node, live, code, key="wrong")
    assert status == 401
    assert "key" in detail


@pytest.mark.usefixtures("paused")
def test_cancelling(node: Path, live: Running, pair: tuple[Path, Path]) -> None:
    code = f"""
    const input = {{video_url: "{upload(live, pair[0])}", audio_url: "{upload(live, pair[1])}"}};
    const {{ request_id }} = await fal.queue.submit("{APP}", {{input}});
    await fal.queue.cancel("{APP}", {{requestId: request_id}});
    const status = await fal.queue.status("{APP}", {{requestId: request_id, logs: true}});
    try {{ await fal.queue.result("{APP}", {{requestId: request_id}}); }}
    catch (error) {{ say([status.status, error.status]); }}
    """
    assert javascript(node, live, code) == ["COMPLETED", 499]


def test_the_proxy_route_passes_on_to_nobody_else(live: Running) -> None:
    for target in (
        "https://example.com/x",
        "http://queue.fal.run/x",
        "https://queue.fal.run@evil.example/x",
        "nonsense",
        "https://[",
        "",
    ):
        answer = httpx.get(f"{live.url}/api/fal/proxy", headers={**live.headers, "x-fal-target-url": target})
        assert answer.status_code == 400, target
    answer = httpx.get(f"{live.url}/api/fal/proxy", headers={"x-fal-target-url": f"https://queue.fal.run/{APP}/requests/x"})
    assert answer.status_code == 401, "the proxy adds no key of its own unless it is told to"
