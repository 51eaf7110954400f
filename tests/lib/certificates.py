"""Certificates for a test, made by OpenSSL's command."""
import subprocess


def make(folder, name, host="localhost", days=30, issuer=None):
    """A certificate for host and its key, as NAME.pem and NAME.key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
               cert, "-subj", f"/CN={host}", "-days", str(days), "-addext", f"subjectAltName=DNS:{host},IP:127.0.0.1"]
    if issuer:
        command += ["-CA", folder / f"{issuer}.pem", "-CAkey", folder / f"{issuer}.key", "-addext", "basicConstraints=CA:FALSE"]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return str(cert), str(key)
