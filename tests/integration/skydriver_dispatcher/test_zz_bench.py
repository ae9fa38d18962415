import asyncio, time, sys, statistics
sys.path.insert(0,'/work/w-k8s')
from datetime import timedelta
from tests.support.histories import a_store
from skydriver_dispatcher import store as st
from skydriver_common.db.schedule import Work
async def run(url):
    async with a_store(url) as s:
        await st.set_throttle_defaults(s.pool, interval_s=0, max_running=None)
        for n in (100, 1000,10000,100000):
            await s.pool.execute("TRUNCATE due_work")
            await s.pool.execute("INSERT INTO due_work (kind,scan_id,due_at,priority,created_at) SELECT 'launch', 's'||g, now(), (random()*150-50)::int, now() - random()*interval '10 days' FROM generate_series(1,$1::int) g", n)
            await s.pool.execute("ANALYZE due_work")
            for cap in (None, 1000000):
                await st.set_throttle_defaults(s.pool, interval_s=0, max_running=cap)
                ts=[]
                for _ in range(min(n//2,1000)):
                    t=time.perf_counter(); w=await st.claim_launch(s.pool, holder='x', lease=timedelta(60)); ts.append(time.perf_counter()-t)
                    assert isinstance(w, Work)
                    await s.pool.execute("DELETE FROM due_work WHERE kind='launch' AND scan_id=$1", w.scan_id)
                ts.sort(); print(n, cap, 'p50 %.2f ms p99 %.2f ms'%(1e3*ts[len(ts)//2], 1e3*ts[int(len(ts)*.99)]))
        await st.set_throttle_defaults(s.pool, interval_s=300, max_running=10)
        await s.pool.execute("DELETE FROM due_work WHERE priority>=100")
        await st.claim_launch(s.pool, holder='x', lease=timedelta(60))
        ts=[]
        for _ in range(300):
            t=time.perf_counter(); w=await st.claim_launch(s.pool, holder='x', lease=timedelta(60)); ts.append(time.perf_counter()-t); assert not isinstance(w, Work)
        ts.sort(); print('closed', 'p50 %.2f ms p99 %.2f ms'%(1e3*ts[150], 1e3*ts[297]))
def test_it(database): asyncio.run(run(database))
