/** An S3 that fails, forgets or does not tell. */
import { type Case, onlyS3 } from './case.ts'
import { isOk } from './http.ts'
import { fail } from './outcome.ts'
import { content, eventually, type Subject } from './subject.ts'

const MiB = 1024 * 1024
/** More than one part of any server here. */
const size = 20 * MiB + 321
/** More than any client repeats. */
const always = 200

function fails(
  subject: Subject,
  operations: readonly string[],
  status: number | 'lost-response',
  times = always,
): void {
  for (const operation of operations) subject.s3.fail(operation, { status, times })
}

/** Whether the client is told that all bytes are there. */
async function isToldComplete(subject: Subject, id: string): Promise<boolean> {
  return (await subject.received(id)).bytes === size
}

const metadata: Case = {
  name: 's3-metadata',
  title: 'S3 answers 503 to every read: the client is not told that its upload is unknown',
  unless: onlyS3,
  async run(subject) {
    const id = await subject.create(size, 'unreadable.bin')
    await subject.put(id, 0, content(MiB, 1))
    await subject.restart()
    fails(subject, ['GetObject', 'HeadObject', 'ListParts', 'ListObjectsV2'], 503)
    const { status } = await subject.received(id)
    if (status === 404 || status === 410 || status === 403) fail(`HEAD is answered ${status}`)
    subject.s3.reset()
    const { bytes } = await subject.received(id)
    if (bytes !== MiB) fail(`HEAD was answered ${status}; when S3 is well again, ${bytes} bytes are reported`)
  },
}

const refused: Case = {
  name: 's3-complete-503',
  title: 'S3 answers 503 to the completion: nobody is told that the file is there, and it is once S3 is well',
  unless: onlyS3,
  async run(subject) {
    const data = content(size, 2)
    const id = await subject.create(size, 'refused.bin')
    fails(subject, ['CompleteMultipartUpload'], 503)
    const answer = await subject.put(id, 0, data)
    if (isOk(answer) && (await subject.copiesOf(data)) === 0)
      fail(`the last PATCH is answered ${answer.status}, there is no object`)
    if ((await isToldComplete(subject, id)) && (await subject.copiesOf(data)) === 0) {
      fail(`PATCH ${answer.status}, then HEAD reports all ${size} bytes, and there is no object`)
    }
    subject.s3.reset()
    await mustEndWell(subject, id, data, `PATCH ${answer.status}; when S3 is well again`)
  },
}

/** What a client does that found all bytes arrived: it asks, and repeats the end. */
async function mustEndWell(subject: Subject, id: string, data: Buffer, seen: string): Promise<void> {
  const done = await eventually(async () => {
    const { bytes } = await subject.received(id)
    if (bytes !== null) await subject.put(id, bytes, data.subarray(bytes))
    return (await subject.copiesOf(data)) > 0 && (await isToldComplete(subject, id))
  }, 10_000)
  if (!done) {
    const { status, bytes } = await subject.received(id)
    fail(`${seen}: HEAD ${status}, offset ${bytes}, ${await subject.copiesOf(data)} objects`)
  }
}

const lost: Case = {
  name: 's3-complete-lost',
  title: 'The answer to the completion is lost: the upload ends as one object, and the client is told',
  unless: onlyS3,
  async run(subject) {
    const data = content(size, 3)
    const id = await subject.create(size, 'lost.bin')
    fails(subject, ['CompleteMultipartUpload'], 'lost-response', 1)
    const answer = await subject.put(id, 0, data)
    await mustEndWell(subject, id, data, `PATCH ${answer.status}`)
    const copies = await subject.copiesOf(data)
    if (copies !== 1) fail(`${copies} objects`)
  },
}

const lifecycle: Case = {
  name: 's3-lifecycle',
  title: 'A lifecycle rule aborts the multipart upload: the upload is never reported complete without an object',
  unless: onlyS3,
  async run(subject) {
    const data = content(size, 4)
    const id = await subject.create(size, 'aborted.bin')
    await subject.put(id, 0, data.subarray(0, 10 * MiB))
    await eventually(async () => subject.s3.log('UploadPart').some(({ status }) => status === 200), 5000)
    subject.bucket.uploads.clear()
    const before = await subject.received(id)
    if (before.bytes === size) fail(`10 of 20 MiB were sent; HEAD reports ${size} bytes, and there is no object`)
    const answer = await subject.put(id, 10 * MiB, data.subarray(10 * MiB))
    const missing = (await subject.copiesOf(data)) === 0
    if (isOk(answer) && missing) fail(`the last PATCH is answered ${answer.status}, and there is no object`)
    if (missing && (await isToldComplete(subject, id))) fail(`HEAD reports ${size} bytes, and there is no object`)
  },
}

const goesBack: Case = {
  name: 's3-offset',
  title: 'S3 answers 503 while the next PATCH runs: the acknowledged offset does not go back',
  unless: onlyS3,
  async run(subject) {
    const data = content(size, 5)
    const id = await subject.create(size, 'back.bin')
    const first = await subject.put(id, 0, data.subarray(0, MiB))
    if (!isOk(first)) fail(`the first PATCH is answered ${first.status}`)
    fails(subject, ['PutObject', 'UploadPart'], 503)
    const second = await subject.put(id, MiB, data.subarray(MiB, 2 * MiB))
    subject.s3.reset()
    const { bytes, status } = await subject.received(id)
    if (bytes === null || bytes < MiB) {
      fail(`${MiB} bytes acknowledged, the next PATCH ${second.status}, then HEAD reports ${bytes ?? status}`)
    }
    await subject.finish(id, data, bytes, 8 * MiB)
    await subject.mustHave(data, 'when the upload is finished')
  },
}

export const s3Cases: readonly Case[] = [metadata, refused, lost, lifecycle, goesBack]
