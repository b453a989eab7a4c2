"""What the store enrols for the lines of a job, and which of them may not be enrolled."""

from __future__ import annotations

from unisono.api.enrolment.facts import check
from unisono.api.enrolment.line import EnrolmentLine, parse_line
from unisono.api.enrolment.places import place_of_zip
from unisono.api.enrolment.plain import PlainLine, plain_line
from unisono.api.enrolment.rows import FirstWords, Row
from unisono.base.errors import InvalidInput
from unisono.base.units import w_of_kw
from unisono.model.technology import Lifecycle
from unisono.store import job_secrets, keys
from unisono.store.enrolment import NewDevice
from unisono.store.new_places import NewGateway, NewSite

Line = EnrolmentLine | PlainLine
_CODE_OF_LIFECYCLE = {lifecycle.name.lower(): int(lifecycle) for lifecycle in Lifecycle}
# Sites and gateways that lines have named alike; beyond it they are made again, which costs time only.
REMEMBERED_MAX = 10_000


class NewDevices:
    """The lines of one job on their way into the store. A gateway's secret is derived from the job's ``seed``."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._first_words = FirstWords()
        self._sites: dict[tuple[object, ...], NewSite] = {}
        self._gateways: dict[tuple[str, str, str], NewGateway] = {}

    def of(self, row: Row) -> NewDevice:
        """Return what to enrol for a row; raises InvalidInput for what it says, by itself or against an earlier row."""
        device = self._plain(row)
        if device is None:
            said = parse_line(row.line)
            device = self.of_line(said)
        self._first_words.hold_against(row, device.partner_reference)
        return device

    def _plain(self, row: Row) -> NewDevice | None:
        """Return the device of a line that needs no closer look."""
        said = plain_line(row.line)
        if said is None:
            return None
        try:
            device = self.of_line(said)
            check(said, said.technology, Lifecycle(device.lifecycle), device.ratings, device.limits)
        except InvalidInput:
            return None
        return device

    def of_line(self, line: Line) -> NewDevice:
        """Return what the store enrols for a line; raises InvalidInput for an unknown ZIP.

        A device without a gateway_reference speaks for itself (a gateway under its own reference), unless it is only
        declared.
        """
        ratings, limits = line.ratings(), line.limits()
        return NewDevice(
            site=self._site(line),
            gateway=self._gateway(line),
            partner_reference=line.partner_reference,
            technology=int(line.technology),
            lifecycle=_CODE_OF_LIFECYCLE[line.lifecycle],
            ratings=ratings,
            limits=limits,
            **line.columns() | {"command_ttl_s": line.lease()[1]},
        )

    def _site(self, line: Line) -> NewSite:
        """Return the site; the same object for lines that say the same of one reference."""
        if line.site_reference is None:
            return new_site(line)
        limits = (line.site_export_limit_kw, line.site_import_limit_kw)
        place = (line.zip, line.latitude_deg, line.longitude_deg)
        said = (line.site_reference, *place, *limits, line.interconnection_status)
        found = self._sites.get(said)
        if found is None:
            if len(self._sites) >= REMEMBERED_MAX:
                self._sites.clear()
            found = self._sites[said] = new_site(line)
        return found

    def _gateway(self, line: Line) -> NewGateway | None:
        """Return the gateway, None for none; only the hash of its secret goes to the store."""
        reference = gateway_reference(line)
        if not reference:
            return None
        said = (reference, line.link, line.vendor or "")
        found = self._gateways.get(said)
        if found is None:
            if len(self._gateways) >= REMEMBERED_MAX:
                self._gateways.clear()
            digest = keys.digest(job_secrets.gateway_secret(self._seed, reference))
            found = NewGateway(partner_reference=reference, link=line.link, vendor=said[-1], secret_sha256=digest)
            self._gateways[said] = found
        return found


def new_site(line: Line) -> NewSite:
    """Return the site that a line tells of; raises InvalidInput for an unknown ZIP."""
    place = place_of_zip(line.zip)
    export_kw, import_kw = line.site_export_limit_kw, line.site_import_limit_kw
    return NewSite(
        partner_reference=line.site_reference or "",
        zip=line.zip,
        time_zone=place.time_zone,
        latitude_deg=place.latitude_deg if line.latitude_deg is None else line.latitude_deg,
        longitude_deg=place.longitude_deg if line.longitude_deg is None else line.longitude_deg,
        export_limit_w=float("inf") if export_kw is None else w_of_kw(export_kw),
        import_limit_w=float("-inf") if import_kw is None else 0.0 - w_of_kw(import_kw),
        export_is_allowed=export_kw is None or export_kw > 0,
        interconnection_status=line.interconnection_status,
    )


def gateway_reference(line: Line) -> str:
    """Return the reference of the gateway that the line's device is reached through; "" for none."""
    if line.gateway_reference is not None:
        return line.gateway_reference
    return "" if line.lifecycle == "declared" else line.partner_reference
