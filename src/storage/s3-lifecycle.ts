/** A bucket without a rule that aborts incomplete multipart uploads keeps, and bills, what dead servers leave. */
import type { S3Connection } from './s3-connection.ts'

const looked = new WeakSet<S3Connection>()

/** Looks once for each adapter, beside the uploads. Who may not ask, or whose server has no rules, gets no warning. */
export async function warnAboutLifecycle(connection: S3Connection): Promise<void> {
  if (looked.has(connection)) return
  looked.add(connection)
  const { bucket } = connection.settings
  try {
    const abortSignal = AbortSignal.timeout(connection.settings.attemptTimeout)
    const { sdk, client } = await connection.api()
    const rules = await client
      .send(new sdk.GetBucketLifecycleConfigurationCommand({ Bucket: bucket }), { abortSignal })
      .then(
        ({ Rules }) => Rules ?? [],
        (error: { name?: unknown }) => (error.name === 'NoSuchLifecycleConfiguration' ? [] : null),
      )
    if (rules === null || rules.some((rule) => rule.Status === 'Enabled' && rule.AbortIncompleteMultipartUpload)) return
    const message =
      'The bucket has no lifecycle rule that aborts incomplete multipart uploads: parts of uploads that nobody comes back for ' +
      'may stay, and cost, for ever. Add one with a few days (see docs/storage-adapters.md).'
    process.emitWarning(message, { code: 'NEXUS_S3_LIFECYCLE' })
  } catch {
    // No SDK, closed, …: the upload itself tells what is wrong.
  }
}
