"""Keys, tenants and limits of the real server, with the real command and the openai package."""
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import tempfile
import time
import unittest

import jwt
import openai
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from server import LIMIT_S, Keyed, binary, long_model, tiny_model, wait_for


class Auth(unittest.TestCase):
    def test_keys_come_and_go_while_the_server_runs(self):
        with Keyed() as k:
            with k.client("anything") as stranger, self.assertRaises(openai.AuthenticationError) as caught:
                stranger.models.list()
            self.assertEqual(caught.exception.code, "invalid_api_key")
            made = k.key("--tenant", "gold")
            with k.client(made["key"]) as client:
                model = client.models.list().data[0].id
                answer = client.completions.create(model=model, prompt="Once", max_tokens=4, extra_headers={"x-tenant": "other"},
                                                   extra_body={"ignore_eos": True})
                self.assertEqual(answer.usage.completion_tokens, 4)
                def logged():
                    return [(e["tenant"], e["key"]) for e in k.s.lines() if e.get("path") == "/v1/completions"]
                self.assertEqual(wait_for("the line to be logged", logged), [("gold", made["id"])])
                turned = k.keys("rotate", made["id"])
                wait_for("the old key to end", lambda: k.status(made["key"]) == 401)
                self.assertEqual(k.status(turned["key"]), 200)
                with self.assertRaises(openai.AuthenticationError):
                    client.completions.create(model=model, prompt="Once", max_tokens=4)
            k.keys("revoke", made["id"])
            wait_for("the key to end", lambda: k.status(turned["key"]) == 401)
            text = "\n".join(line for line in k.s.log if line)
            for secret in (made["key"], turned["key"]):
                self.assertNotIn(secret[16:], text)

    def test_what_a_key_may_not(self):
        with Keyed() as k:
            weak = k.key("--tenant", "free", "--band", 2)["key"]
            other = k.key("--tenant", "free", "--models", "other")["key"]
            with k.client(weak) as client:
                model = client.models.list().data[0].id
                with self.assertRaises(openai.PermissionDeniedError) as caught:
                    client.completions.create(model=model, prompt="Once", max_tokens=4, extra_body={"priority": 0})
                self.assertEqual(caught.exception.param, "priority")
            with k.client(other) as client:
                self.assertEqual(client.models.list().data, [])
                with self.assertRaises(openai.PermissionDeniedError) as caught:
                    client.completions.create(model=model, prompt="Once", max_tokens=4)
                self.assertEqual(caught.exception.param, "model")

    def test_tenants_find_each_others_prompts_in_a_group_of_their_keys_alone(self):
        prompt = "Once upon a time there was a little dog. " * 12
        with Keyed() as k:
            def cached(key):
                with k.client(key) as client:
                    model = client.models.list().data[0].id
                    answer = client.completions.create(model=model, prompt=prompt, max_tokens=4, temperature=0)
                    return answer.usage.prompt_tokens_details.cached_tokens, answer.choices[0].text
            gold, free, other, alone = [k.key("--tenant", tenant, *more)["key"] for tenant, *more in (
                ("gold", "--share", "friends"), ("free", "--share", "friends"), ("gold", "--share", "others"), ("friends",))]
            first, text = cached(gold)
            second, same = cached(free)
            self.assertEqual((first, same), (0, text))
            self.assertGreaterEqual(second, 64)
            self.assertEqual([cached(other), cached(alone)], [(0, text)] * 2)
            self.assertGreaterEqual(cached(alone)[0], 64)

    def test_a_file_that_will_not_do_is_told_at_the_start(self):
        with tempfile.TemporaryDirectory(prefix="autoglm-keys-") as folder:
            path = pathlib.Path(folder, "keys.db")
            path.write_bytes(os.urandom(20000))
            done = subprocess.run([binary(), "serve", "-m", tiny_model(), "--port", "0", "--keys-db", str(path)], capture_output=True,
                                  text=True, timeout=LIMIT_S)
            self.assertEqual(done.returncode, 1)
            self.assertIn("no database", done.stderr)


class Tokens(unittest.TestCase):
    """Tokens that PyJWT signed, as an identity provider would."""

    @classmethod
    def setUpClass(cls):
        cls.private = {"RS256": rsa.generate_private_key(65537, 2048), "ES256": ec.generate_private_key(ec.SECP256R1()),
                       "EdDSA": ed25519.Ed25519PrivateKey.generate()}

    def jwks(self, path, *algs):
        keys = [{**json.loads(jwt.get_algorithm_by_name(a).to_jwk(self.private[a].public_key())), "kid": f"my-{a}", "use": "sig"} for a in algs]
        path.write_text(json.dumps({"keys": keys}))

    def token(self, alg, **claims):
        now = int(time.time())
        claims = {"iss": "https://id.example", "aud": ["autoglm"], "sub": "someone", "iat": now, "exp": now + 300, "tenant": "gold", **claims}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, self.private[alg], algorithm=alg, headers={"kid": f"my-{alg}"})

    def test_tokens_of_each_algorithm_and_bad_ones(self):
        with tempfile.TemporaryDirectory(prefix="autoglm-jwks-") as folder:
            path = pathlib.Path(folder, "keys.json")
            self.jwks(path, "RS256", "ES256")
            with Keyed("--jwt-jwks", str(path), "--jwt-issuer", "https://id.example", "--jwt-audience", "autoglm") as k:
                for alg in ("RS256", "ES256"):
                    with k.client(self.token(alg)) as client:
                        model = client.models.list().data[0].id
                        answer = client.completions.create(model=model, prompt="Once", max_tokens=2, extra_body={"ignore_eos": True})
                        self.assertEqual(answer.usage.completion_tokens, 2)
                self.assertEqual(k.status(self.token("EdDSA")), 401)
                self.jwks(path, "ES256", "EdDSA")
                k.s.signal(signal.SIGHUP)
                k.s.wait_line("settings reloaded")
                self.assertEqual([k.status(self.token(a)) for a in self.private], [401, 200, 200])
                now = int(time.time())
                for reason, claims in (("expired", {"exp": now - 60}), ("not valid yet", {"nbf": now + 60}), ("issuer", {"iss": "https://evil.example"}),
                                       ("audience", {"aud": "other"}), ("tenant", {"tenant": None}), ("expiry", {"exp": None})):
                    self.assertEqual(k.status(self.token("EdDSA", **claims)), 401, reason)
                    wait_for(f"'{reason}' to be logged", lambda: any(reason in e["reason"] for e in k.s.lines() if e.get("msg") == "token refused"))
                unsigned = jwt.encode({"tenant": "gold", "exp": now + 60}, None, algorithm="none")
                self.assertEqual(k.status(unsigned), 401)
                admin = {"Authorization": "Bearer " + self.token("ES256", roles=["admin"])}
                self.assertEqual(k.s.get("/admin/v1/keys", headers=admin).status_code, 200)
                self.assertEqual(k.s.get("/v1/models", headers=admin).status_code, 403)
                rows = {e["key"]: e["requests"] for e in k.s.get("/admin/v1/usage", headers=admin).json()["data"]}
                self.assertEqual(rows, {"jwt:someone": 2})


class Limits(unittest.TestCase):
    def test_the_sdk_sees_limits_as_openais_own(self):
        with Keyed() as k:
            made = k.key("--tenant", "gold", "--limit-requests-per-minute", 2, "--limit-tokens-per-minute", 100000)
            with k.client(made["key"]) as client:
                model = client.models.list().data[0].id
                ask = dict(model=model, prompt="Once", max_tokens=4)
                raw = client.completions.with_raw_response.create(**ask)
                self.assertEqual(raw.headers["x-ratelimit-limit-requests"], "2")
                self.assertEqual(raw.headers["x-ratelimit-remaining-requests"], "1")
                self.assertRegex(raw.headers["x-ratelimit-reset-requests"], r"^(\d+m)?[\d.]+m?s$")
                self.assertEqual(raw.headers["x-ratelimit-limit-tokens"], "100000")
                used = raw.parse().usage
                self.assertEqual(int(raw.headers["x-ratelimit-remaining-tokens"]), 100000 - used.prompt_tokens)
                self.assertEqual(len([c for c in client.completions.create(stream=True, **ask) if c.choices]) > 0, True)
                with self.assertRaises(openai.RateLimitError) as caught:
                    client.completions.create(**ask)
                self.assertEqual(caught.exception.code, "rate_limit_exceeded")
                self.assertGreaterEqual(int(caught.exception.response.headers["retry-after"]), 1)
            self.assertEqual(k.s.metric("autoglm_limited_total", limit="key/requests_per_minute"), 1)
            k.keys("limits", made["id"], "--limit-requests-per-minute", 0)
            wait_for("the limit to go", lambda: k.ask(made["key"]) == 200)

    def test_a_key_keeps_within_its_requests_in_flight(self):
        with Keyed(model=long_model()) as k:
            made = k.key("--tenant", "gold", "--limit-concurrent", 1)
            with k.client(made["key"]) as client:
                ask = dict(model="long", prompt="Once", extra_body={"ignore_eos": True})
                stream = client.completions.create(stream=True, max_tokens=100000, **ask)
                next(iter(stream))
                with self.assertRaises(openai.RateLimitError):
                    client.completions.create(max_tokens=4, **ask)
                stream.close()
                wait_for("the place to be free", lambda: k.ask(made["key"]) == 200)


class Admin(unittest.TestCase):
    def over_url(self, k, key, *args):
        """The command, through the admin API."""
        done = subprocess.run([binary(), "keys", *map(str, args), "--url", k.s.url, "--json"], capture_output=True, text=True, timeout=LIMIT_S,
                              env={**os.environ, "AUTOGLM_API_KEY": key})
        return done.returncode, done.stdout, done.stderr

    def test_the_command_works_through_the_server_as_on_the_file(self):
        with Keyed() as k:
            admin = k.keys("create", "--tenant", "ops", "--roles", "admin")["key"]
            wait_for("the key to be known", lambda: k.status(admin) == 403)
            code, out, err = self.over_url(k, admin, "create", "--tenant", "gold", "--name", "ü", "--limit-burst", 3)
            self.assertEqual(code, 0, err)
            made = json.loads(out)
            self.assertEqual(k.status(made["key"]), 200, "known at once")
            self.assertEqual(json.loads(self.over_url(k, admin, "list")[1]), k.keys("list"))
            self.assertEqual(json.loads(self.over_url(k, admin, "limits", "address:*", "--limit-concurrent", 500)[1])["limits"], {"concurrent": 500})
            self.assertEqual(json.loads(self.over_url(k, admin, "limits")[1]), k.keys("limits"))
            turned = json.loads(self.over_url(k, admin, "rotate", made["id"])[1])
            self.assertEqual((k.status(made["key"]), k.status(turned["key"])), (401, 200))
            self.assertEqual(self.over_url(k, admin, "revoke", made["id"])[0], 0)
            self.assertEqual(k.status(turned["key"]), 401)
            for key, args, part in ((admin, ("rotate", made["id"]), "revoked"), (admin, ("revoke", "0123456789ab"), "no key"),
                                    ("nobody", ("list",), "not known")):
                code, out, err = self.over_url(k, key, *args)
                self.assertEqual((code, out), (1, ""))
                self.assertIn(part, err)
            wait_for("all to be logged", lambda: len([e for e in k.s.lines() if e.get("msg") == "keys changed"]) == 4)
        code, out, err = self.over_url(k, admin, "list")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("onnect", err)


def usage(k, admin, **query):
    r = k.s.get("/admin/v1/usage", params=query, headers={"Authorization": f"Bearer {admin}"})
    assert r.status_code == 200, r.text
    return r.json()["data"]


def written(db):
    """What the file itself holds, by key."""
    rows = sqlite3.connect(f"file:{db}?mode=ro", uri=True).execute("SELECT key, sum(requests), sum(prompt_tokens), sum(output_tokens) FROM usage GROUP BY key")
    return {key: tuple(rest) for key, *rest in rows}


class Usage(unittest.TestCase):
    def test_usage_is_what_the_answers_said(self):
        with Keyed() as k:
            admin = k.keys("create", "--tenant", "ops", "--roles", "admin")["key"]
            made = k.key("--tenant", "gold")
            with k.client(made["key"]) as client:
                model = client.models.list().data[0].id
                used = [client.completions.create(model=model, prompt="Once upon a time", max_tokens=m).usage for m in (3, 5)]
                used.append(list(client.completions.create(model=model, prompt="Once", max_tokens=7, n=2, stream=True,
                                                           stream_options={"include_usage": True}))[-1].usage)
            want = (3, sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used))

            def rows():  # two, if it was midnight
                return usage(k, admin, key=made["id"])

            def counted():
                return tuple(sum(row[name] for row in rows()) for name in ("requests", "prompt_tokens", "output_tokens"))
            wait_for("all of it to be counted", lambda: counted()[2] >= want[2])  # another loop may have answered
            self.assertEqual(counted(), want)
            self.assertEqual({(row["tenant"], row["model"]) for row in rows()}, {("gold", model)})
            csv = k.s.get("/admin/v1/usage?format=csv", headers={"Authorization": f"Bearer {admin}"})
            self.assertEqual(csv.headers["content-type"], "text/csv; charset=utf-8")
            self.assertEqual(sorted(line for line in csv.text.splitlines() if made["id"] in line), sorted(
                f'{row["day"]},"{made["id"]}","gold","{model}",{row["requests"]},{row["prompt_tokens"]},{row["output_tokens"]}'
                for row in rows()))

    def test_nothing_is_lost_at_SIGTERM(self):
        with Keyed() as k:
            made = k.key("--tenant", "gold")
            with k.client(made["key"]) as client:
                model = client.models.list().data[0].id
                used = [client.completions.create(model=model, prompt="Once", max_tokens=4).usage for _ in range(20)]
            k.s.stop()
            self.assertEqual(list(k.db.parent.glob("*-wal")), [], "all of it is in the file itself")
            self.assertEqual(written(k.db)[made["id"]], (20, sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used)))

    def test_what_is_written_outlives_SIGKILL(self):
        """What a client has had comes into the file also of an answer that still goes on, and is there after a kill."""
        with Keyed(model=long_model()) as k:
            made = k.key("--tenant", "gold")
            with k.client(made["key"]) as client:
                stream = client.completions.create(model="long", prompt="Once", max_tokens=1000000, stream=True, extra_body={"ignore_eos": True})
                began, n = time.monotonic(), 0
                for chunk in stream:
                    n += 1
                    if time.monotonic() - began > 3:
                        break
                wait_for("the file to hold it", lambda: written(k.db).get(made["id"], (0, 0, 0))[2] >= n)
                k.s.process.kill()
                self.assertEqual(k.s.wait(), -signal.SIGKILL)
                stream.close()
            requests, prompt, output = written(k.db)[made["id"]]
            self.assertEqual(requests, 1)
            self.assertGreater(prompt, 0)
            self.assertGreaterEqual(output, n)


if __name__ == "__main__":
    unittest.main()
