/** The client with Node's platform: the same names, and strings are paths. */
import type { Upload, UploadGroup, UploadGroupOptions, UploadOptions, UploadResult, UploadSource } from '../types.ts'
import { createUpload as createUploadOn } from '../upload.ts'
import { createUploadGroup as createUploadGroupOf } from '../upload-group.ts'
import { nodePlatform } from './platform.ts'

export function createUpload(source: UploadSource, options?: UploadOptions): Upload {
  return createUploadOn(source, options, nodePlatform)
}

export function createUploadGroup(options?: UploadGroupOptions): UploadGroup {
  return createUploadGroupOf(options, createUpload)
}

export function uploadFile(source: UploadSource, options?: UploadOptions): Promise<UploadResult> {
  return createUpload(source, options).start()
}
