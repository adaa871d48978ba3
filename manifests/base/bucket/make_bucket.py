"""Make the bucket of the cache, unless it is there. Waits for the store: both start at the same time."""

import os
import sys
import time

from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import HTTPError

PATIENCE_S = float(os.environ.get("PATIENCE_S", "300"))


def make(client: Minio, bucket: str) -> bool:
    """Whether it was made by this call; raises what the SDK raises where the store refuses or is not there."""
    if client.bucket_exists(bucket):
        return False
    try:
        client.make_bucket(bucket)
    except S3Error as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
        return False
    return True


def main() -> int:
    """0 when the bucket is there, 1 when the store did not answer, or refused, for as long as PATIENCE_S."""
    bucket = os.environ["UNSEE_CACHE"].removeprefix("s3://").split("/")[0]
    client = Minio(
        os.environ["UNSEE_STORE_ENDPOINT"],
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        secure=os.environ["UNSEE_STORE_SECURE"] == "true",
        region=os.environ["UNSEE_STORE_REGION"],
    )
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            made = make(client, bucket)
        except (S3Error, HTTPError, OSError) as error:
            if time.monotonic() > give_up:
                reason = error.code if isinstance(error, S3Error) else type(error).__name__
                sys.stderr.write(f"bucket {bucket}: not made in {PATIENCE_S:.0f} s: {reason}\n")
                return 1
            time.sleep(2)
        else:
            sys.stdout.write(f"bucket {bucket}: {'made' if made else 'was there'}\n")
            return 0


if __name__ == "__main__":
    sys.exit(main())
