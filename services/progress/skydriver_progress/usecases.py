"""One transaction around each decision on a command of the gateway."""

from skydriver_common.log.unit_of_work import UnitOfWork
from skydriver_common.log.views import manifest_body
from skydriver_common.model import event_codec
from skydriver_common.model.commands import Context, PatchManifest, PutResult
from skydriver_common.model.rejections import Rejection, Reply
from skydriver_progress.decide.reports import decide_patch, decide_result, unknown_scan
from skydriver_progress.retention import Retention


async def patch_manifest(command: PatchManifest, context: Context, uow: UnitOfWork, retention: Retention) -> Reply:
    """Store progress and metadata; replies with the whole Manifest."""
    async with uow.on_scans(context, [command.scan_id]) as tx:
        if tx.recorded_reply is not None:
            return tx.recorded_reply
        scan = tx.scan(command.scan_id)
        match unknown_scan(command.scan_id) if scan is None else decide_patch(scan, command, tx.now.timestamp()):
            case Rejection() as no:
                reply = Reply.refused(no)
            case events:
                after = tx.append(command.scan_id, events)
                assert scan is not None
                assert after is not None
                if scan.progress is None and after.progress is not None:
                    retention.schedule_compaction(tx, command.scan_id)
                reply = Reply(body=manifest_body(after))
        tx.record(reply)
    return reply


async def put_result(command: PutResult, context: Context, uow: UnitOfWork, retention: Retention) -> Reply:
    """Store a skymap; replies with which one stands now: ``{"digest", "is_final"}``."""
    async with uow.on_scans(context, [command.scan_id]) as tx:
        if tx.recorded_reply is not None:
            return tx.recorded_reply
        scan = tx.scan(command.scan_id)
        if scan is None:
            reply = Reply.refused(unknown_scan(command.scan_id))
        else:
            tx.needs_blob(command.digest)
            if scan.result is None:
                retention.schedule_compaction(tx, command.scan_id)
            after = tx.append(command.scan_id, decide_result(scan, command))
            assert after is not None
            assert after.result is not None
            reply = Reply(body=event_codec.encode({"digest": after.result.digest, "is_final": after.result.is_final}))
        tx.record(reply)
    return reply
