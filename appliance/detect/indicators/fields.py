"""Which fields of a view hold what an indicator can be (detect stage, indicators): the one table.

Names are those of Sigma's taxonomy, of the product-neutral fields that every normaliser gives
(`src_ip`), and of records whose own fields say more than these. A field that only repeats another
of the same view (Zeek's `host` beside `cs-host`, `id.orig_h` beside `src_ip`) is left out.
"""

from typing import Final, Literal

#: What a field holds: digests; an address; a name or an address; a URL; a file's path or name; any
#: text, in which URLs are looked for; a list of names and addresses in one text.
Holds = Literal["hashes", "address", "host", "url", "file", "text", "hosts"]

_NAMES: Final[dict[Holds, str]] = {
    "hashes": (
        "Hashes Hash md5 sha1 sha256 MD5 SHA1 SHA256 hash fileHash "
        "fileinfo.md5 fileinfo.sha1 fileinfo.sha256 "
        "file.hash.md5 file.hash.sha1 file.hash.sha256 "
    ),
    "address": (
        "src_ip dst_ip SourceIp DestinationIp IpAddress SourceAddress DestAddress ClientAddress "
        "RemoteAddress ServerAddress ClientIP c-ip client_ip source_address destination_address "
        "c-addr remote_ip dns.resolved_ip"
    ),
    "host": (
        "QueryName query cs-host r-dns r-host DestinationHostname SourceHostname server_name "
        "tls.sni quic.sni http.hostname dhost shost answer destination.domain url.domain"
    ),
    "hosts": "QueryResults",
    "url": "c-uri url cs-referer requestUrl url.full",
    "file": (
        "Image ParentImage TargetFilename ImageLoaded OriginalFileName SourceImage TargetImage "
        "NewProcessName ParentProcessName ProcessName CallerProcessName Application FileName "
        "ObjectName RelativeTargetName processPath Path filename fname fileinfo.filename "
        "smb.filename nfs.filename ftp_data.filename file_name file_path file.name file.path "
        "orig_filenames resp_filenames"
    ),
    "text": "CommandLine ParentCommandLine ScriptBlockText Payload",
}

#: Field name -> what it holds.
FIELDS: Final[dict[str, Holds]] = {
    name: holds for holds, names in _NAMES.items() for name in names.split()
}

#: Letters of the keys (see `values`) that a field's values can have.
LETTERS: Final[dict[Holds, str]] = {
    "hashes": "h",
    "address": "an",
    "host": "and",
    "hosts": "and",
    "url": "andu",
    "file": "f",
    "text": "andu",
}
